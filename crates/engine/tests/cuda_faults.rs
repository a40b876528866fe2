//! The engine `cuda` when a GPU or an NVIDIA library fails, as the emulator of `tests/cuda` can simulate: each fault is an environment
//! variable of a separate process, which runs one of the tests here again. Without the emulator nothing is tested.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod networks;

use networks::{average, conv, distance, images, labels, moved_state, network, norm, relu, study_settings};
use pointwise_engine::cuda::Cuda;
use pointwise_engine::reference::Reference;
use pointwise_engine::{Batch, DeviceName, Engine, Precision, Settings, accelerator};
use pointwise_network::Network;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::sync_channel;

/// Whether there is a GPU, and it is the emulator.
fn is_emulated() -> bool {
    let emulated = accelerator(DeviceName::Cuda(0)).is_some_and(|name| name.contains("emulator"));
    if !emulated {
        eprintln!("skipped: only the emulator can simulate faults");
    }
    emulated
}

fn settings(precision: Precision, deterministic: bool) -> Settings {
    Settings { device: DeviceName::Cuda(0), precision, deterministic, ..study_settings() }
}

/// Each direction of a convolution by cuDNN, and a product.
fn small() -> Network {
    network(
        "small",
        [3, 8, 8],
        vec![conv(9, 3, 1), norm(), relu(), conv(16, 3, 1), relu(), conv(5, 1, 0), average()],
    )
}

/// A process that ran a test of this file with a fault.
struct Faulty {
    succeeded: bool,
    said: String,
    /// What the emulator logged.
    log: String,
}

impl Faulty {
    /// Runs the test with that name and these variables.
    fn run(test: &str, variables: &[(&str, &str)]) -> Self {
        let name: Vec<String> = variables.iter().map(|(name, value)| format!("{name}-{value}")).collect();
        let log = format!("{test}-{}.log", name.join("-").replace([':', ','], "_"));
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(log);
        let _ = fs::remove_file(&log);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env("POINTWISE_EMULATOR_LOG", &log)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let [said, errors] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(said.contains("1 passed") || said.contains("1 failed"), "{test} did not run: {said}{errors}");
        Self {
            succeeded: output.status.success(),
            said: said + &errors,
            log: fs::read_to_string(&log).unwrap_or_default(),
        }
    }

    /// As [`Faulty::run`], for a test that must pass nevertheless.
    fn pass(test: &str, variables: &[(&str, &str)]) -> Self {
        let faulty = Self::run(test, variables);
        assert!(faulty.succeeded, "{variables:?}: {}", faulty.said);
        faulty
    }

    fn lines<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a str> {
        self.log.lines().filter(move |line| line.contains(part))
    }
}

/// Gradients of three steps, the last of them replayed, against the reference's.
fn check_gradients(settings: &Settings) {
    // f32 rounds in another order.
    const TOLERANCE: f32 = 5e-5;
    let network = small();
    let (images, labels) = (images(&network, 6), labels(&network, 6));
    let batch = Batch { images: &images, labels: &labels };
    let state = moved_state(&network);
    let mut reference = Reference::new(&network, &study_settings()).unwrap();
    reference.load_state(&state).unwrap();
    let (_, expected) = reference.gradients(batch).unwrap();
    let mut engine = Cuda::new(&network, settings).unwrap();
    engine.load_state(&state).unwrap();
    for step in 0..3 {
        for (name, gradient) in engine.gradients(batch).unwrap().1 {
            let far = distance(&gradient.values, &expected[&name].values, 5e-2);
            assert!(far < TOLERANCE, "step {step}: {name} is {far:.1e} away");
        }
    }
    assert!(engine.description().ends_with("CUDA graph"), "{}", engine.description());
}

#[test]
fn gradients_are_the_references() {
    if is_emulated() {
        check_gradients(&settings(Precision::F32, true));
    }
}

#[test]
fn gradients_by_measured_algorithms_are_the_references() {
    if is_emulated() {
        check_gradients(&settings(Precision::F32, false));
    }
}

#[test]
fn every_card_from_compute_capability_8_on_has_code_and_others_are_refused() {
    if !is_emulated() {
        return;
    }
    for (card, runs) in [("80", "sm_80"), ("89", "sm_80"), ("90", "sm_90"), ("120", "compute_90")] {
        let faulty = Faulty::pass("gradients_are_the_references", &[("POINTWISE_EMULATOR_ARCH", card)]);
        assert_eq!(
            faulty.lines("module load").next(),
            Some(format!("module load {runs}").as_str()),
            "{card}"
        );
    }
    let old = Faulty::run("gradients_are_the_references", &[("POINTWISE_EMULATOR_ARCH", "75")]);
    assert!(!old.succeeded && old.said.contains("CUDA_ERROR_NO_BINARY_FOR_GPU"), "{}", old.said);
}

/// Trains three steps and returns the state in words.
fn trained() -> String {
    let network = small();
    let (images, labels) = (images(&network, 6), labels(&network, 6));
    let mut engine = Cuda::new(&network, &settings(Precision::F32, true)).unwrap();
    for _ in 0..3 {
        engine.train_step(Batch { images: &images, labels: &labels }).unwrap();
    }
    format!("{:?}", engine.state().unwrap())
}

#[test]
fn engines_follow_each_other() {
    if is_emulated() {
        assert!(trained() == trained());
    }
}

#[test]
fn what_an_engine_leaves_goes_with_the_context() {
    if !is_emulated() {
        return;
    }
    let process = Faulty::pass("engines_follow_each_other", &[]);
    // Of the last one before the context: nothing was used, freed or destroyed after its end.
    assert!(process.lines("context destroyed").count() > 0, "{}", process.log);
    assert!(!process.said.contains("CUDA emulator: "), "{}", process.said);
    for handle in ["sync cublasDestroy", "sync cudnnDestroy"] {
        assert!(process.lines(handle).count() >= 2, "{}", process.log);
    }
    let [taken, given] = ["alloc bytes=", "free bytes="].map(|part| process.lines(part).count());
    assert_eq!(taken, given);
}

#[test]
fn two_threads_compute_what_one_does() {
    if !is_emulated() {
        return;
    }
    let expected = trained();
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| [(); 10].map(|()| trained())));
        for thread in threads {
            assert!(thread.join().unwrap().iter().all(|state| *state == expected));
        }
    });
}

#[test]
fn f32_is_computed_in_f32() {
    if !is_emulated() {
        return;
    }
    for test in ["gradients_are_the_references", "gradients_by_measured_algorithms_are_the_references"] {
        let process = Faulty::pass(test, &[]);
        assert!(process.lines("convolution").count() > 0);
        let rounded: Vec<&str> = process
            .lines("convolution")
            .filter(|line| !line.starts_with("search"))
            .filter(|line| line.contains(" tf32") || line.contains(" f16"))
            .collect();
        assert!(rounded.is_empty(), "{rounded:?}");
    }
}

#[test]
fn tf32_is_not_computed_in_f16() {
    if !is_emulated() {
        return;
    }
    let network = small();
    let (images, labels) = (images(&network, 6), labels(&network, 6));
    for deterministic in [true, false] {
        let mut engine = Cuda::new(&network, &settings(Precision::Tf32, deterministic)).unwrap();
        engine.train_step(Batch { images: &images, labels: &labels }).unwrap();
    }
}

#[test]
fn factors_are_rounded_to_tf32_at_most() {
    if !is_emulated() {
        return;
    }
    let process = Faulty::pass("tf32_is_not_computed_in_f16", &[]);
    let computed: Vec<&str> =
        process.lines("convolution").filter(|line| !line.starts_with("search")).collect();
    assert!(computed.iter().any(|line| line.ends_with(" tf32")), "{computed:?}");
    assert!(!computed.iter().any(|line| line.contains(" f16")), "{computed:?}");
}

#[test]
fn an_algorithm_that_does_not_run_is_replaced_by_the_next() {
    if !is_emulated() {
        return;
    }
    let [deterministic, measured] =
        ["gradients_are_the_references", "gradients_by_measured_algorithms_are_the_references"];
    for (test, direction, failing, next) in [
        (deterministic, "forward", "1", "0"),
        (measured, "forward", "1", "0"),
        (measured, "data", "0", "1"),
        (measured, "filter", "0", "1"),
        (measured, "filter", "1", "0"),
    ] {
        let what = format!("{direction}:{failing}");
        let process = Faulty::pass(test, &[("POINTWISE_EMULATOR_FAILING", &what)]);
        let part = format!("convolution {direction} ");
        let used = |line: &&str| !line.starts_with("search") && !line.starts_with("failing");
        let used: Vec<&str> = process.lines(&part).filter(used).collect();
        assert!(!used.is_empty(), "{test}, {what}: {}", process.log);
        let next = format!(" algorithm={next}");
        assert!(used.iter().all(|line| line.contains(&next)), "{test}, {what}: {used:?}");
    }
}

#[test]
fn a_direction_in_which_every_algorithm_fails_has_kernels_of_our_own() {
    if !is_emulated() {
        return;
    }
    for test in ["gradients_are_the_references", "gradients_by_measured_algorithms_are_the_references"] {
        for direction in ["forward", "data", "filter"] {
            let all = format!("{direction}:0,{direction}:1");
            let process = Faulty::pass(test, &[("POINTWISE_EMULATOR_FAILING", &all)]);
            assert!(process.lines("record launch grouped").count() > 0, "{test}, {all}: {}", process.log);
        }
    }
}

#[test]
fn a_recording_that_is_spoiled_is_tried_once_more() {
    if !is_emulated() {
        return;
    }
    let test = "gradients_are_the_references";
    let once = Faulty::pass(test, &[("POINTWISE_EMULATOR_SPOILED", "1")]);
    assert_eq!(once.lines("capture end spoiled").count(), 1, "{}", once.log);
    assert_eq!(once.lines("capture end nodes=").count(), 1, "{}", once.log);
    // Each step is also correct without a graph: it is the description that fails the test.
    let twice = Faulty::run(test, &[("POINTWISE_EMULATOR_SPOILED", "1,2")]);
    assert!(!twice.succeeded && twice.said.contains("without CUDA graphs ("), "{}", twice.said);
}

#[test]
fn an_engine_records_while_another_thread_drops_its_own() {
    if !is_emulated() {
        return;
    }
    const ROUNDS: usize = 20;
    let settings = settings(Precision::F32, true);
    let network = small();
    let (images, labels) = (images(&network, 6), labels(&network, 6));
    let batch = Batch { images: &images, labels: &labels };
    // Both run at the same time, and neither waits for one that has failed.
    let (recording, dropping) = sync_channel(0);
    std::thread::scope(|scope| {
        let (network, settings) = (&network, &settings);
        scope.spawn(move || {
            for _ in 0..ROUNDS {
                let mut engine = Cuda::new(network, settings).unwrap();
                engine.train_step(batch).unwrap();
                dropping.recv().unwrap();
                drop(engine);
            }
        });
        let mut without = Vec::new();
        for _ in 0..ROUNDS {
            let mut engine = Cuda::new(network, settings).unwrap();
            engine.train_step(batch).unwrap();
            recording.send(()).unwrap();
            // This one is recorded.
            engine.train_step(batch).unwrap();
            if !engine.description().ends_with("CUDA graph") {
                without.push(engine.description());
            }
        }
        assert!(without.is_empty(), "{without:?}");
    });
}

#[test]
fn long_products_in_bf16() {
    if !is_emulated() {
        return;
    }
    // The gradient of these weights sums over 16 x 256 pixels.
    let network = network("long", [8, 16, 16], vec![conv(16, 1, 0), relu(), conv(5, 1, 0), average()]);
    let (images, labels) = (images(&network, 16), labels(&network, 16));
    let mut engine = Cuda::new(&network, &settings(Precision::Bf16, true)).unwrap();
    engine.train_step(Batch { images: &images, labels: &labels }).unwrap();
}

#[test]
fn products_in_bf16_are_summed_in_f32() {
    if !is_emulated() {
        return;
    }
    let process = Faulty::pass("long_products_in_bf16", &[]);
    let long: Vec<&str> = process.lines("gemm ").filter(|line| line.contains(" k=4096 ")).collect();
    assert!(!long.is_empty(), "{}", process.log);
    assert!(!long.iter().any(|line| line.contains("pieces=")), "{long:?}");
}
