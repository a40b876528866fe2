//! The engine `cuda` on any NVIDIA GPU, or on the emulator of `tests/cuda`. Without either, nothing is tested here.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod networks;

use networks::{
    distance, drawn_network, graph_networks, has_gpu, images, labels, moved_state, odd_networks,
    study_recipe, study_settings, tiny, uniform,
};
use pointwise_engine::cuda::Cuda;
use pointwise_engine::reference::Reference;
use pointwise_engine::{
    Batch, DeviceName, Engine, EngineError, EngineKind, Precision, ResidentEpoch, ResidentImages, Settings,
    State, Totals, accelerator, create,
};
use pointwise_network::Network;
use pointwise_random::{Purpose, Stream, below, block, permutation};
use pointwise_recipe::{Rate, Recipe, Span};
use std::collections::BTreeSet;

/// The settings for a GPU; `None` if there is none.
fn settings(precision: Precision) -> Option<Settings> {
    let device = DeviceName::Cuda(0);
    has_gpu().then(|| Settings { device, precision, deterministic: true, ..study_settings() })
}

fn cuda(network: &Network, settings: &Settings) -> Cuda {
    Cuda::new(network, settings).unwrap()
}

/// f32 rounds in another order; TF32 rounds factors to 2^-11 of themselves, bf16 everything on the way to 2^-9, and a few layers
/// and BatchNorms of few values multiply that.
const TOLERANCES: [(Precision, f32); 3] =
    [(Precision::F32, 5e-5), (Precision::Tf32, 2e-2), (Precision::Bf16, 2.5e-1)];

/// Where the engine is further than `tolerance` from the reference: before, in and after a step of `n` images.
fn disagreements(network: &Network, n: usize, settings: &Settings, tolerance: f32) -> Vec<String> {
    let precision = settings.precision;
    let (images, labels) = (images(network, n), labels(network, n));
    let batch = Batch { images: &images, labels: &labels };
    let mut reference = Reference::new(network, &study_settings()).unwrap();
    let state = moved_state(network);
    reference.load_state(&state).unwrap();
    let expected_logits = reference.logits(&images).unwrap();
    let (expected_loss, expected) = reference.gradients(batch).unwrap();
    let expected_state = reference.state().unwrap();
    let after = reference.logits(&images).unwrap();
    let mut engine = cuda(network, settings);
    engine.load_state(&state).unwrap();
    let mut found = Vec::new();
    let mut check = |what: &str, distance: f32| {
        if distance.is_nan() || distance > tolerance {
            found.push(format!("{} x{n} in {precision}: {what} is {distance:.1e} away", network.name));
        }
    };
    check("evaluation", distance(&engine.logits(&images).unwrap(), &expected_logits, 0.1));
    let (loss, gradients) = engine.gradients(batch).unwrap();
    check("loss", ((loss - expected_loss) / expected_loss).abs() as f32);
    assert_eq!(gradients.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, gradient) in &gradients {
        assert_eq!(gradient.shape, expected[name].shape);
        // Below f32 precision a ReLU or a pool can flip: then a gradient differs.
        if precision == Precision::F32 {
            check(name, distance(&gradient.values, &expected[name].values, 5e-2));
        } else {
            check(name, mean_distance(&gradient.values, &expected[name].values));
        }
    }
    let state = engine.state().unwrap();
    assert_eq!(state.batches_tracked, expected_state.batches_tracked);
    for (name, statistic) in &state.statistics {
        check(name, distance(&statistic.values, &expected_state.statistics[name].values, 0.1));
    }
    check("evaluation after", distance(&engine.logits(&images).unwrap(), &after, 0.1));
    found
}

#[test]
fn it_agrees_with_the_reference_on_any_network() {
    for (precision, tolerance) in TOLERANCES {
        let Some(settings) = settings(precision) else { return };
        let failures: Vec<String> = odd_networks()
            .iter()
            .flat_map(|network| [3, 14, 2].map(|n| disagreements(network, n, &settings, tolerance)))
            .flatten()
            .collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

#[test]
fn it_agrees_with_the_reference_on_networks_drawn_at_random() {
    let Some(settings) = settings(Precision::F32) else { return };
    // As the engine `cpu`, for the same reason.
    let drawn = (0..20).flat_map(|seed| disagreements(&drawn_network(seed), 4, &settings, 1e-3));
    let failures: Vec<String> = drawn.collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn it_agrees_with_the_reference_on_graphs() {
    let mut failures = Vec::new();
    for (precision, tolerance) in TOLERANCES {
        let Some(settings) = settings(precision) else { return };
        // The residual network is three times as deep as those above, and rounds three times as often.
        let tolerance = if precision == Precision::Tf32 { 3.0 * tolerance } else { tolerance };
        for network in graph_networks() {
            // Where rounding decides the side of a kink, a gradient differs, which happens to a batch now and then.
            let mut last = Vec::new();
            let agrees = [3, 14, 2].into_iter().filter(|n| {
                let found = disagreements(&network, *n, &settings, tolerance);
                last.extend(found.iter().cloned());
                found.is_empty()
            });
            if agrees.count() < 2 {
                failures.extend(last);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn groups_that_cudnn_refuses_are_computed_without_it() {
    let Some(settings) = settings(Precision::F32) else { return };
    if !is_emulated(&settings) {
        return;
    }
    let test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["it_agrees_with_the_reference_on_graphs", "--exact"])
        .env("POINTWISE_EMULATOR_GROUPS", "refused")
        .output()
        .unwrap();
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stdout));
}

#[test]
fn equal_values_and_kinks_have_the_references_gradients() {
    // Without padding after it, a map of equal values stays one: each window contains its maximum several times, and 0 and 6 occur exactly.
    let Some(settings) = settings(Precision::F32) else { return };
    let pools = [
        "{ MaxPool2d = { kernel_size = 3, stride = 1, padding = 1 } }",
        "{ MaxPool2d = { kernel_size = 3, stride = 2 } }",
        "{ MaxPool2d = { kernel_size = [1, 2], stride = [2, 1] } }",
        "{ MaxPool2d = { kernel_size = 2 } }",
    ];
    for pool in pools {
        for activation in ["ReLU", "ReLU6", "LeakyReLU", "Sigmoid"] {
            let text = format!(
                r#"
                name = "equal"
                input = [2, 9, 8]
                layers = [
                    {{ Conv2d = {{ out_channels = 7, kernel_size = 1 }} }}, "{activation}", {pool},
                    {{ Conv2d = {{ out_channels = 3, kernel_size = 3, stride = 2 }} }}, "Flatten",
                    {{ Linear = {{ out_features = 4 }} }},
                ]"#
            );
            let network = Network::from_toml(&text).unwrap();
            let mut state = moved_state(&network);
            for (channel, bias) in state.parameters.get_mut("0.bias").unwrap().values.iter_mut().enumerate() {
                *bias = [0.0, 6.0, -1.0, 3.0, 7.0, 0.0, 6.0][channel];
            }
            let images = vec![0.0; 3 * 2 * 9 * 8];
            let batch = Batch { images: &images, labels: &[0, 1, 2] };
            let mut reference = Reference::new(&network, &study_settings()).unwrap();
            reference.load_state(&state).unwrap();
            let mut engine = cuda(&network, &settings);
            engine.load_state(&state).unwrap();
            let (expected, got) = (reference.gradients(batch).unwrap().1, engine.gradients(batch).unwrap().1);
            for (name, gradient) in &got {
                let distance = distance(&gradient.values, &expected[name].values, 5e-2);
                assert!(distance < 5e-5, "{pool} {activation}: {name} is {distance:.1e} away");
            }
        }
    }
}

/// Whether the GPU is the emulator: real libraries are named by `POINTWISE_CUDA_LIBRARIES` as well.
fn is_emulated(settings: &Settings) -> bool {
    accelerator(settings.device).is_some_and(|name| name.contains("emulator"))
}

/// The root of the mean square of the differences over that of what is expected, at least 0.05.
fn mean_distance(a: &[f32], b: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>();
    let len = b.len() as f32;
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / len;
    let size = norm(&mut b.iter().copied()) / len;
    (difference.sqrt()) / size.sqrt().max(5e-2)
}

/// Images as in a data set.
struct Bytes {
    images: Vec<u8>,
    labels: Vec<u16>,
    values: Vec<f32>,
}

impl Bytes {
    fn new(network: &Network, n: usize) -> Self {
        let mut words = Stream::new(5, Purpose::Synthetic, 0);
        let [channels, ..] = network.input;
        let image: usize = network.input.iter().product();
        Self {
            images: (0..n * image).map(|_| words.word() as u8).collect(),
            labels: labels(network, n),
            values: (0..channels * 256)
                .map(|i| (i % 256) as f32 / 128.0 - 1.0 + (i / 256) as f32 * 0.01)
                .collect(),
        }
    }

    fn view(&self) -> ResidentImages<'_> {
        ResidentImages { images: &self.images, labels: &self.labels, values: &self.values }
    }

    /// Image `sample`, cropped and flipped the slow way.
    fn augmented(
        &self,
        network: &Network,
        seed: u64,
        epoch: u32,
        sample: u32,
        margin: Option<u32>,
    ) -> Vec<f32> {
        let [channels, height, width] = network.input;
        let [dy, dx, flip] = match margin {
            None => [0, 0, 0],
            Some(margin) => {
                let words = block(seed, Purpose::Augment, epoch, u64::from(sample));
                let shift = |word| below(word, 2 * margin + 1) as i64 - i64::from(margin);
                [shift(words[0]), shift(words[1]), i64::from(words[2] >> 31)]
            }
        };
        let image = &self.images[sample as usize * channels * height * width..];
        let mut values = Vec::new();
        for channel in 0..channels {
            for row in 0..height as i64 {
                for column in 0..width as i64 {
                    let column = if flip == 1 { width as i64 - 1 - column } else { column };
                    let (y, x) = (row + dy, column + dx);
                    let inside = (0..height as i64).contains(&y) && (0..width as i64).contains(&x);
                    let byte =
                        if inside { image[(channel * height + y as usize) * width + x as usize] } else { 0 };
                    values.push(self.values[channel * 256 + usize::from(byte)]);
                }
            }
        }
        values
    }
}

#[test]
fn resident_images_give_the_bits_of_batches_from_the_host() {
    for precision in Precision::ALL {
        let Some(settings) = settings(precision) else { return };
        let network = tiny(0.5);
        let bytes = Bytes::new(&network, 11);
        for margin in [None, Some(2)] {
            let (mut resident, mut staged) = (cuda(&network, &settings), cuda(&network, &settings));
            let set = resident.reside(bytes.view()).unwrap().unwrap();
            for epoch in 1..4 {
                let order = permutation(9, Purpose::Shuffle, epoch, 11);
                let begun =
                    resident.begin_epoch(set, ResidentEpoch { epoch, order: &order, margin }).unwrap();
                // The last batch is short, and is recorded and replayed like the others.
                for range in [0..4, 4..8, 8..11] {
                    resident.train_resident(begun, range.clone()).unwrap();
                    let samples = &order[range];
                    let images: Vec<f32> = samples
                        .iter()
                        .flat_map(|sample| bytes.augmented(&network, settings.seed, epoch, *sample, margin))
                        .collect();
                    let labels: Vec<u16> =
                        samples.iter().map(|sample| bytes.labels[*sample as usize]).collect();
                    staged.train_step(Batch { images: &images, labels: &labels }).unwrap();
                    // Between the steps of an epoch, in stored order.
                    resident.evaluate_resident(set, 3..9).unwrap();
                    let images: Vec<f32> =
                        (3..9).flat_map(|sample| bytes.augmented(&network, 0, 0, sample, None)).collect();
                    staged.evaluate(Batch { images: &images, labels: &bytes.labels[3..9] }).unwrap();
                }
            }
            assert_eq!(
                resident.totals().unwrap(),
                staged.totals().unwrap(),
                "{precision}, margin {margin:?}"
            );
            assert!(resident.state().unwrap() == staged.state().unwrap(), "{precision}, margin {margin:?}");
        }
    }
}

#[test]
fn resident_images_are_checked() {
    let Some(settings) = settings(Precision::F32) else { return };
    let network = tiny(0.0);
    let bytes = Bytes::new(&network, 3);
    let mut engine = cuda(&network, &settings);
    let wrong = ResidentImages { labels: &[0, 1], ..bytes.view() };
    assert!(matches!(engine.reside(wrong), Err(EngineError::Batch(_))));
    let set = engine.reside(bytes.view()).unwrap().unwrap();
    for order in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3]] {
        let epoch = ResidentEpoch { epoch: 1, order, margin: None };
        assert!(matches!(engine.begin_epoch(set, epoch), Err(EngineError::Batch(_))), "{order:?}");
    }
    let epoch = ResidentEpoch { epoch: 1, order: &[2, 0, 1], margin: None };
    let first = engine.begin_epoch(set, epoch).unwrap();
    for range in [0..0, 2..4] {
        let error = engine.train_resident(first, range.clone());
        assert!(matches!(error, Err(EngineError::Batch(_))), "{range:?}");
        assert!(matches!(engine.evaluate_resident(set, range), Err(EngineError::Batch(_))));
    }
    engine.train_resident(first, 0..2).unwrap();
    // An epoch is over once another has begun; evaluation needs none.
    let second = engine.begin_epoch(set, epoch).unwrap();
    let error = engine.train_resident(first, 0..2).unwrap_err();
    assert!(error.to_string().contains("another epoch has begun"), "{error}");
    engine.evaluate_resident(set, 0..2).unwrap();
    engine.train_resident(second, 0..2).unwrap();
    // The CPU's engines decline.
    let mut cpu = create(EngineKind::Cpu, &network, &study_settings()).unwrap();
    assert_eq!(cpu.reside(bytes.view()).unwrap(), None);
    assert!(cpu.train_resident(second, 0..1).is_err());
}

#[test]
fn replayed_steps_and_larger_batches_between_them_change_no_bit() {
    for precision in Precision::ALL {
        let Some(settings) = settings(precision) else { return };
        for network in odd_networks().into_iter().chain(graph_networks()) {
            let (images, labels) = (images(&network, 9), labels(&network, 9));
            let part = network.input.iter().product::<usize>() * 4;
            let small = Batch { images: &images[..part], labels: &labels[..4] };
            let large = Batch { images: &images, labels: &labels };
            // A fresh engine for each step takes it call by call.
            let mut state = cuda(&network, &settings).state().unwrap();
            let mut whole = cuda(&network, &settings);
            for (step, batch) in
                [small, small, small, large, small, small, large, large].into_iter().enumerate()
            {
                let mut fresh = cuda(&network, &settings);
                fresh.load_state(&state).unwrap();
                fresh.train_step(batch).unwrap();
                state = fresh.state().unwrap();
                whole.train_step(batch).unwrap();
                assert!(whole.state().unwrap() == state, "{} in {precision}, step {step}", network.name);
            }
            assert!(whole.description().ends_with("CUDA graph"), "{}", whole.description());
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_leaves_the_parameters() {
    let Some(settings) = settings(Precision::F32) else { return };
    let network = tiny(0.0);
    let mut images = images(&network, 2);
    let mut engine = cuda(&network, &settings);
    engine.train_step(Batch { images: &images, labels: &[0, 1] }).unwrap();
    let before = engine.state().unwrap();
    images[5] = f32::INFINITY;
    for _ in 0..3 {
        engine.train_step(Batch { images: &images, labels: &[0, 1] }).unwrap();
    }
    let after = engine.state().unwrap();
    let numbers = |state: &State| (state.parameters.clone(), state.optimizer.clone());
    assert!(numbers(&after) == numbers(&before));
    assert!(matches!(engine.totals(), Err(EngineError::NotFinite { step: 2, .. })));
    // A new training run.
    engine.load_state(&before).unwrap();
    engine.set_totals(Totals::default()).unwrap();
    images[5] = 0.0;
    engine.train_step(Batch { images: &images, labels: &[0, 1] }).unwrap();
    assert_eq!(engine.totals().unwrap().samples, 2);
}

#[test]
fn it_computes_on_a_gpu_alone() {
    let error = Cuda::new(&tiny(0.0), &study_settings()).unwrap_err().to_string();
    assert!(error.contains("`cuda`") && error.contains("--device cuda"), "{error}");
    let half = Settings { precision: Precision::Bf16, ..study_settings() };
    let error = create(EngineKind::Cpu, &tiny(0.0), &half).err().unwrap().to_string();
    assert!(error.contains("bf16") && error.contains("--engine cuda"), "{error}");
}

/// What the emulator's log records: an epoch of six equal steps on resident images, each at its own rate.
#[test]
fn six_steps() {
    let Some(settings) = settings(Precision::F32) else { return };
    let network = tiny(0.5);
    let bytes = Bytes::new(&network, 12);
    let mut engine = cuda(&network, &settings);
    let set = engine.reside(bytes.view()).unwrap().unwrap();
    let order = permutation(9, Purpose::Shuffle, 1, 12);
    let epoch = ResidentEpoch { epoch: 1, order: &order, margin: Some(1) };
    let begun = engine.begin_epoch(set, epoch).unwrap();
    for step in 0..6 {
        engine.set_rate(Rate::new(0.1 / (1 + step) as f64)).unwrap();
        engine.train_resident(begun, 2 * step..2 * step + 2).unwrap();
    }
    assert_eq!(engine.totals().unwrap().samples, 12);
}

/// The emulator's log of a test of this file.
fn emulator_log(test: &str) -> String {
    let log = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(test).with_extension("log");
    let _ = std::fs::remove_file(&log);
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env("POINTWISE_EMULATOR_LOG", &log)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    std::fs::read_to_string(&log).unwrap()
}

#[test]
fn a_step_is_these_calls_once_and_then_one() {
    let Some(settings) = settings(Precision::F32) else { return };
    if !is_emulated(&settings) {
        // Only the emulator keeps a log.
        return;
    }
    let log = emulator_log("six_steps");
    let lines: Vec<&str> = log.lines().collect();

    let recorded: Vec<String> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("record "))
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            ["launch", kernel, ..] => kernel.to_owned(),
            [library, what, ..] => format!("{library} {what}"),
            _ => line.to_owned(),
        })
        .collect();
    let norm = ["batch_moments_f32", "bn_finalize"];
    let back = ["bn_act_backward_reduce_f32", "bn_backward_coefficients"];
    let expected = [
        &["gather_augment_batch_f32", "convolution forward"][..],
        &norm,
        &["bn_act_pool_forward_f32", "gemm tn"],
        &norm,
        &["bn_act_forward_f32"],
        // The classifier.
        &["flatten_f32", "dropout_f32", "gemm tn", "bn_act_forward_f32", "gemm tn", "bn_act_forward_f32"],
        &["cross_entropy_rows_f32", "cross_entropy_total"],
        // Nothing follows the last layer: its gradient is that of the logits.
        &back,
        &["gemm nt", "gemm nn"],
        &back,
        &["bn_act_backward_f32", "gemm nt", "gemm nn", "dropout_f32", "unflatten_f32"],
        &back,
        &["bn_act_backward_f32", "gemm nt", "gemm nn"],
        &["bn_act_pool_backward_reduce_f32", "bn_backward_coefficients"],
        // The images need no gradient.
        &["bn_act_pool_backward_f32", "convolution filter", "adam_f32"],
    ];
    assert_eq!(recorded, expected.concat());

    // Step one is taken call by call, step two recorded; from then on there is nothing else until the totals are requested.
    let first = lines.iter().position(|line| line.starts_with("graph launch")).unwrap();
    let replayed = format!("graph launch nodes={}", recorded.len());
    for step in lines[first..first + 9].chunks(2) {
        assert_eq!(step[0], replayed);
        assert!(step.get(1).is_none_or(|line| line.starts_with("launch set_rate ")), "{step:?}");
    }
    assert!(lines[first + 9].starts_with("copy dtoh bytes=104"), "{}", lines[first + 9]);
}

/// A training step of the study's networks: our own kernels, and calls of cuBLAS and cuDNN. The batch size does not change them.
const STUDY_CALLS: [(&str, Precision, usize, usize); 6] = [
    ("alexnet", Precision::F32, 39, 17),
    ("alexnet", Precision::Bf16, 39, 17),
    ("alexnet_plain", Precision::F32, 51, 23),
    ("alexnet_plain", Precision::Bf16, 51, 23),
    ("nin", Precision::F32, 69, 32),
    ("nin", Precision::Bf16, 69, 32),
];

/// What the emulator's log records: four steps of each, on resident images.
#[test]
fn steps_of_the_study() {
    let Some(emulated) = settings(Precision::F32) else { return };
    if !is_emulated(&emulated) {
        return;
    }
    for (name, precision, ..) in STUDY_CALLS {
        let network = Network::by_name(name).unwrap();
        let bytes = Bytes::new(&network, 8);
        let mut engine = cuda(&network, &Settings { precision, ..emulated.clone() });
        let set = engine.reside(bytes.view()).unwrap().unwrap();
        let order = permutation(9, Purpose::Shuffle, 1, 8);
        let epoch = ResidentEpoch { epoch: 1, order: &order, margin: Some(4) };
        let begun = engine.begin_epoch(set, epoch).unwrap();
        for step in 0..4 {
            engine.train_resident(begun, 2 * step..2 * step + 2).unwrap();
        }
        assert_eq!(engine.totals().unwrap().samples, 8);
    }
}

#[test]
fn a_step_of_the_study_is_so_many_calls() {
    let Some(settings) = settings(Precision::F32) else { return };
    if !is_emulated(&settings) {
        return;
    }
    let log = emulator_log("steps_of_the_study");
    let mut found = Vec::new();
    for (run, (name, precision, ..)) in log.split("capture begin\n").skip(1).zip(STUDY_CALLS) {
        let recorded: Vec<&str> = run.lines().filter_map(|line| line.strip_prefix("record ")).collect();
        let own = recorded.iter().filter(|call| call.starts_with("launch ")).count();
        found.push((name, precision, own, recorded.len() - own));
        // After the recorded step the host makes one call per step, which copies nothing, until the totals are requested.
        let mut after = run.lines().skip_while(|line| !line.starts_with("graph launch"));
        let replayed = format!("graph launch nodes={}", recorded.len());
        for _ in 0..3 {
            assert_eq!(after.next(), Some(&*replayed), "{name} in {precision}");
        }
        let last = after.next().unwrap_or_default();
        assert!(last.starts_with("copy dtoh bytes=104"), "{name} in {precision}: {last}");
    }
    assert_eq!(found, STUDY_CALLS);
}

/// Kilobytes that a training step on two images reads and writes: our own kernels except the optimizer's, the optimizer's, and cuBLAS and
/// cuDNN. Each map and each parameter counts once for each kernel that reads or writes it.
const STUDY_KILOBYTES: [(&str, Precision, [usize; 3]); 6] = [
    ("alexnet", Precision::F32, [8808, 63_213, 32_484]),
    ("alexnet", Precision::Bf16, [4450, 63_306, 16_291]),
    ("alexnet_plain", Precision::F32, [9204, 195_548, 89_214]),
    ("alexnet_plain", Precision::Bf16, [4659, 195_670, 44_661]),
    ("nin", Precision::F32, [20_251, 41_623, 31_525]),
    ("nin", Precision::Bf16, [10_227, 41_716, 15_812]),
];

#[test]
fn a_step_of_the_study_moves_so_many_bytes() {
    let Some(settings) = settings(Precision::F32) else { return };
    let mut found = Vec::new();
    for (name, precision, _) in STUDY_KILOBYTES {
        let network = Network::by_name(name).unwrap();
        let mut engine = cuda(&network, &Settings { precision, ..settings.clone() });
        let (images, labels) = (images(&network, 2), labels(&network, 2));
        let batch = Batch { images: &images, labels: &labels };
        engine.train_step(batch).unwrap();
        let (state, totals) = (engine.state().unwrap(), engine.totals().unwrap());
        let spans = engine.timeline(batch).unwrap();
        assert_eq!(engine.state().unwrap(), state, "{name} in {precision}");
        assert_eq!(engine.totals().unwrap(), totals, "{name} in {precision}");

        let mut bytes = [0; 3];
        let layers: BTreeSet<&str> = spans.iter().map(|span| &*span.layer).collect();
        for layer in ["images", "loss", "optimizer"] {
            assert!(layers.contains(layer), "{name}: {layers:?}");
        }
        assert!(!layers.contains(""), "{name}: {layers:?}");
        for span in &spans {
            let of_library = span.name == "product" || span.name.starts_with("convolution");
            bytes[if of_library { 2 } else { usize::from(span.layer == "optimizer") }] += span.bytes;
        }
        found.push((name, precision, bytes.map(|bytes| bytes.div_ceil(1000))));
    }
    assert_eq!(found, STUDY_KILOBYTES);
}

#[test]
fn measured_algorithms_agree_too() {
    // As above; a smaller batch reuses what was measured for a larger one.
    const TOLERANCE: f32 = 5e-5;
    let Some(settings) = settings(Precision::F32) else { return };
    let settings = Settings { deterministic: false, ..settings };
    for network in &odd_networks()[..3] {
        let mut engine = cuda(network, &settings);
        for n in [5, 14, 3] {
            let (images, labels) = (images(network, n), labels(network, n));
            let batch = Batch { images: &images, labels: &labels };
            let mut reference = Reference::new(network, &study_settings()).unwrap();
            let state = moved_state(network);
            reference.load_state(&state).unwrap();
            engine.load_state(&state).unwrap();
            let (_, expected) = reference.gradients(batch).unwrap();
            for (name, gradient) in engine.gradients(batch).unwrap().1 {
                let distance = distance(&gradient.values, &expected[&name].values, 5e-2);
                assert!(distance < TOLERANCE, "{} x{n}: {name} is {distance:.1e} away", network.name);
            }
        }
    }
}

/// Every optimizer, alone and with whatever else can be part of a step.
fn recipes() -> Vec<(String, Recipe)> {
    let optimizers = [
        "Adam = { lr = 0.01, betas = [0.8, 0.99], weight_decay = 0.1 }",
        "AdamW = { lr = 0.01, eps = 1e-4, weight_decay = 0.5 }",
        "SGD = { lr = 0.1 }",
        "SGD = { lr = 0.1, momentum = 0.9, weight_decay = 0.1 }",
        "SGD = { lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 0.1 }",
    ];
    let groups = r#"parameter-groups = [
        { names = "b.*", lr_factor = 0.3 }, { max_dims = 1, weight_decay = 0.0 }, { names = "*.weight", weight_decay = 0.3, lr_factor = 2.0 },
    ]"#;
    let frozen = r#"parameter-groups = [
        { names = "b.*", frozen_after = 1 }, { max_dims = 1, frozen_after = 0 }, { names = "c.weight", lr_factor = 2.0, frozen_after = 3 },
    ]"#;
    let others = [
        String::new(),
        groups.to_owned(),
        "clip-norm = 1.0".to_owned(),
        "label-smoothing = 0.2".to_owned(),
        "ema = { decay = 0.9 }".to_owned(),
        format!("ema = {{ decay = 0.25 }}\nclip-norm = 0.9\nlabel-smoothing = 0.1\n{groups}"),
        format!("lookahead = {{ every = 3, decay = 0.9, power = 1.0 }}\n{frozen}"),
        format!("ema = {{ decay = 0.9 }}\n{frozen}"),
    ];
    let mut recipes = Vec::new();
    for optimizer in optimizers {
        for other in &others {
            let text = format!("epochs = 1\nbatch-size = 6\noptimizer = {{ {optimizer} }}\n{other}");
            recipes.push((format!("{optimizer} {other}"), Recipe::from_toml(&text).unwrap()));
        }
    }
    recipes
}

/// Smooth, and without a bias before a norm: in the bias's gradient, engines differ in noise, which Adam would turn into steps.
fn smooth() -> Network {
    let text = r#"
        name = "smooth"
        input = [2, 6, 6]
        layers = [
            { name = "a", Conv2d = { out_channels = 5, kernel_size = 3, padding = 1, bias = false } },
            { name = "n", BatchNorm2d = {} }, "SiLU", { AvgPool2d = { kernel_size = 2 } },
            { name = "b", Conv2d = { out_channels = 9, kernel_size = 1 } }, "Tanh",
            "Flatten", { Dropout = { p = 0.25 } }, { name = "c", Linear = { out_features = 7 } },
        ]"#;
    Network::from_toml(text).unwrap()
}

/// The rate of step `step`, from 0: a different one at each, later with its own momentum and at the end without it.
fn rate(recipe: &Recipe, step: usize) -> Rate {
    let lr = recipe.optimizer.lr() * (1.0 + 0.5 * (step as f64).sin());
    let momentum = match step {
        0..7 => None,
        7..16 => Some(0.6 + 0.02 * step as f64),
        _ => Some(0.0),
    };
    Rate { lr, momentum, epoch: (step / 5) as u32 }
}

/// Batch number `step` of six images.
fn step_batch(network: &Network, step: usize) -> (Vec<f32>, Vec<u16>) {
    let len = 6 * network.input.iter().product::<usize>();
    (uniform(1000 + step as u64, len), (0..6).map(|i| ((i * 3 + step) % 7) as u16).collect())
}

/// Takes step `step`, from 0, of four epochs of five steps, and what follows it.
fn take(engine: &mut dyn Engine, network: &Network, recipe: &Recipe, step: usize) {
    let (images, labels) = step_batch(network, step);
    engine.set_rate(rate(recipe, step)).unwrap();
    engine.train_step(Batch { images: &images, labels: &labels }).unwrap();
    let span = Span::of_epochs(5, 4);
    if let Some(decay) = recipe.lookahead.and_then(|lookahead| lookahead.decay_after(step as u64 + 1, span)) {
        engine.lookahead(decay).unwrap();
    }
}

#[test]
fn recorded_steps_take_any_rate_and_resume_anywhere() {
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(settings) = settings(precision) else { return };
        let network = smooth();
        for (name, recipe) in recipes() {
            let settings = Settings { recipe: recipe.clone(), ..settings.clone() };
            let mut whole = cuda(&network, &settings);
            let mut state = whole.state().unwrap();
            for step in 0..20 {
                // A fresh engine takes the step call by call.
                let mut fresh = cuda(&network, &settings);
                fresh.load_state(&state).unwrap();
                assert!(fresh.state().unwrap() == state, "{name} in {precision}: loaded before step {step}");
                take(&mut fresh, &network, &recipe, step);
                take(&mut whole, &network, &recipe, step);
                state = fresh.state().unwrap();
                assert!(whole.state().unwrap() == state, "{name} in {precision}: step {step}");
                let (all, one) = (whole.totals().unwrap(), fresh.totals().unwrap());
                assert_eq!(all.last_gradient_norm, one.last_gradient_norm, "{name} in {precision}");
            }
            assert!(whole.description().ends_with("CUDA graph"), "{}", whole.description());
        }
    }
}

#[test]
fn a_step_is_along_the_clipped_gradients_in_any_precision() {
    // Of f32, over the largest of an array.
    const TOLERANCE: f32 = 1e-5;
    let text = "epochs = 1\nbatch-size = 6\noptimizer = { SGD = { lr = 1.0 } }\nclip-norm = 0.2\n\
                parameter-groups = [{ names = \"b.*\", lr_factor = 0.5 }]";
    let recipe = Recipe::from_toml(text).unwrap();
    for precision in Precision::ALL {
        let Some(settings) = settings(precision) else { return };
        let network = smooth();
        let mut engine = cuda(&network, &Settings { recipe: recipe.clone(), ..settings });
        let before = engine.state().unwrap();
        let (images, labels) = step_batch(&network, 0);
        let batch = Batch { images: &images, labels: &labels };
        let (_, gradients) = engine.gradients(batch).unwrap();
        let squares = gradients.values().flat_map(|array| &array.values).map(|x| f64::from(*x).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        assert!(norm > 0.4, "{precision}: {norm} is hardly clipped");
        engine.train_step(batch).unwrap();
        let got = engine.totals().unwrap().last_gradient_norm.unwrap();
        assert!((got / norm - 1.0).abs() < 1e-9, "{precision}: {got}, not {norm}");
        for (name, after) in &engine.state().unwrap().parameters {
            let rate = (0.2 / (norm + 1e-6)) as f32 * if name.starts_with("b.") { 0.5 } else { 1.0 };
            let old = before.parameters[name].values.iter();
            let expected: Vec<f32> =
                old.zip(&gradients[name].values).map(|(value, gradient)| value - rate * gradient).collect();
            let far = distance(&after.values, &expected, 0.01);
            assert!(far < TOLERANCE, "{precision}: {name} is {far:.1e} away");
        }
    }
}

#[test]
fn averages_stand_in_for_what_was_trained() {
    for precision in Precision::ALL {
        let Some(settings) = settings(precision) else { return };
        let (network, text) =
            (smooth(), "epochs = 1\nbatch-size = 6\noptimizer = \"Adam\"\nema = { decay = 0.8 }");
        let recipe = Recipe::from_toml(text).unwrap();
        let settings = Settings { recipe: recipe.clone(), ..settings };
        let (mut plain, mut watched) = (cuda(&network, &settings), cuda(&network, &settings));
        let (images, labels) = step_batch(&network, 50);
        let batch = Batch { images: &images, labels: &labels };
        // Before the first step averages are the initial values.
        let initial = watched.logits(&images).unwrap();
        watched.use_average(true).unwrap();
        assert_eq!(watched.logits(&images).unwrap(), initial);
        watched.use_average(false).unwrap();
        for step in 0..8 {
            take(&mut plain, &network, &recipe, step);
            take(&mut watched, &network, &recipe, step);
            let state = watched.state().unwrap();
            let trained = watched.logits(&images).unwrap();
            // Twice, as once.
            watched.use_average(true).unwrap();
            watched.use_average(true).unwrap();
            assert!(watched.state().unwrap() == state, "{precision}: step {step}");
            let average = state.average.clone().unwrap();
            let mut other = cuda(&network, &Settings { precision, ..self::settings(precision).unwrap() });
            let averaged =
                State { parameters: average.parameters, statistics: average.statistics, ..State::default() };
            other.load_state(&averaged).unwrap();
            assert_eq!(
                watched.logits(&images).unwrap(),
                other.logits(&images).unwrap(),
                "{precision}: step {step}"
            );
            assert_eq!(step > 0, watched.logits(&images).unwrap() != trained, "{precision}: step {step}");
            let error = watched.train_step(batch).unwrap_err();
            assert!(matches!(error, EngineError::Average(_)), "{error}");
            // A state that is loaded meanwhile is kept separate.
            watched.load_state(&state).unwrap();
            assert_eq!(watched.logits(&images).unwrap(), other.logits(&images).unwrap());
            assert!(watched.state().unwrap() == state);
            watched.use_average(false).unwrap();
            assert_eq!(watched.logits(&images).unwrap(), trained);
        }
        assert!(plain.state().unwrap() == watched.state().unwrap(), "{precision}");
    }
}

/// Recorded steps and evaluation continue from the new slow weights, also where products read copies of them.
#[test]
fn slow_weights_are_those_that_are_computed_with() {
    for precision in Precision::ALL {
        let Some(settings) = settings(precision) else { return };
        let text = "epochs = 4\nbatch-size = 6\noptimizer = \"Adam\"\nlookahead = { every = 100 }";
        let (network, recipe) = (smooth(), Recipe::from_toml(text).unwrap());
        let settings = Settings { recipe: recipe.clone(), ..settings };
        let mut engine = cuda(&network, &settings);
        let (images, labels) = step_batch(&network, 50);
        let batch = Batch { images: &images, labels: &labels };
        let mut slow = engine.state().unwrap();
        for (turn, decay) in [0.95, 0.5, 0.0, 1.0].into_iter().enumerate() {
            for step in 0..4 {
                take(&mut engine, &network, &recipe, 4 * turn + step);
            }
            let before = engine.state().unwrap();
            let trained = engine.logits(&images).unwrap();
            engine.lookahead(decay).unwrap();
            let after = engine.state().unwrap();
            for (got, [old, new]) in [
                (&after.parameters, [&slow.parameters, &before.parameters]),
                (&after.statistics, [&slow.statistics, &before.statistics]),
            ] {
                for (name, array) in got {
                    let both = old[name].values.iter().zip(&new[name].values);
                    let expected: Vec<f32> = both
                        .map(|(old, new)| (decay * f64::from(*old) + (1.0 - decay) * f64::from(*new)) as f32)
                        .collect();
                    let far = distance(&array.values, &expected, 1e-3);
                    assert!(far < 1e-6, "{decay} in {precision}: {name} is {far:.1e} away");
                }
            }
            let mut other = cuda(&network, &settings);
            other.load_state(&after).unwrap();
            assert!(other.state().unwrap() == after, "{decay} in {precision}");
            let logits = engine.logits(&images).unwrap();
            assert_eq!(logits, other.logits(&images).unwrap(), "{decay} in {precision}");
            assert_eq!(logits == trained, decay == 0.0, "{decay} in {precision}");
            slow = after;
        }
        // After a value that is not finite nothing changes any more.
        engine.train_step(batch).unwrap();
        let before = engine.state().unwrap();
        engine.train_step(Batch { images: &vec![f32::NAN; images.len()], labels: &labels }).unwrap();
        engine.lookahead(0.5).unwrap();
        assert!(engine.totals().is_err());
        let after = engine.state().unwrap();
        assert!(after.parameters == before.parameters && after.average == before.average, "{precision}");
    }
}

#[test]
fn there_can_be_65_536_classes() {
    for (precision, tolerance) in TOLERANCES {
        let Some(settings) = settings(precision) else { return };
        for classes in [1, 3, 17, 300, 1025, 65_536] {
            let text = format!(
                r#"
                name = "many"
                input = [1, 1, 4]
                layers = ["Flatten", {{ Linear = {{ out_features = {classes} }} }}]
                "#
            );
            let network = Network::from_toml(&text).unwrap();
            let recipe = Recipe { label_smoothing: 0.1, ..study_recipe() };
            let settings = Settings { recipe: recipe.clone(), ..settings.clone() };
            let mut reference = Reference::new(&network, &Settings { recipe, ..study_settings() }).unwrap();
            let mut engine = cuda(&network, &settings);
            let last = (classes - 1) as u16;
            let labels = [last, 0, last / 2, last.min(256), last.min(255)];
            let bytes: Vec<u8> = (0..20).map(|i| (i * 37 % 256) as u8).collect();
            let values: Vec<f32> = (0..256).map(|i| i as f32 / 64.0 - 2.0).collect();
            let images: Vec<f32> = bytes.iter().map(|byte| values[usize::from(*byte)]).collect();
            let batch = Batch { images: &images, labels: &labels };
            let (expected_loss, expected) = reference.gradients(batch).unwrap();
            let (loss, gradients) = engine.gradients(batch).unwrap();
            let close = |a: f64, b: f64| (a - b).abs() <= f64::from(tolerance) * b.abs().max(1.0);
            assert!(close(loss, expected_loss), "{classes} in {precision}: {loss} is not {expected_loss}");
            for (name, gradient) in &gradients {
                let far = distance(&gradient.values, &expected[name].values, 0.02);
                assert!(far < tolerance, "{classes} in {precision}: {name} is {far:.1e} away");
            }
            let set = engine
                .reside(ResidentImages { images: &bytes, labels: &labels, values: &values })
                .unwrap()
                .unwrap();
            engine.evaluate_resident(set, 0..5).unwrap();
            let resident = engine.totals().unwrap();
            engine.set_totals(Totals::default()).unwrap();
            engine.evaluate(batch).unwrap();
            assert_eq!(engine.totals().unwrap(), resident);
            reference.evaluate(batch).unwrap();
            let plain = reference.totals().unwrap().last_loss;
            assert!(close(resident.last_loss, plain), "{classes} in {precision}: {resident:?}, not {plain}");
            let logits = engine.logits(&images).unwrap();
            assert_eq!(resident.correct, pointwise_engine::count_correct(&logits, &labels, classes));
        }
    }
}

#[test]
fn the_first_of_equal_logits_is_the_prediction() {
    let Some(settings) = settings(Precision::F32) else { return };
    let text = r#"
        name = "equal"
        input = [1, 1, 1]
        layers = ["Flatten", { Linear = { out_features = 600 } }]
    "#;
    let network = Network::from_toml(text).unwrap();
    let mut engine = cuda(&network, &settings);
    let mut state = engine.state().unwrap();
    for array in state.parameters.values_mut() {
        array.values.fill(0.0);
    }
    for largest in [[5, 261], [130, 131], [3, 599], [0, 256]] {
        let bias = &mut state.parameters.get_mut("1.bias").unwrap().values;
        bias.fill(0.0);
        for class in largest {
            bias[class] = 1.0;
        }
        engine.load_state(&state).unwrap();
        for (class, correct) in largest.into_iter().zip([1, 0]) {
            engine.set_totals(Totals::default()).unwrap();
            engine.evaluate(Batch { images: &[0.5], labels: &[class as u16] }).unwrap();
            assert_eq!(engine.totals().unwrap().correct, correct, "{class} of {largest:?}");
        }
    }
}
