//! Weights from elsewhere: what PyTorch would load is loaded, and an error names what a file that cannot be loaded is.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use half::{bf16, f16};
use pointwise_tests::{checkpoint, fail, succeed};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Tensors by name: type, shape and bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(bytes: &[u8]) -> Tensors {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let entry = |(name, view): (&str, TensorView<'_>)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.iter().map(entry).collect()
}

/// As PyTorch's tools write it, without metadata.
fn write(tensors: &Tensors, path: &Path) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Every f32 tensor in another type.
fn converted(tensors: &Tensors, dtype: Dtype, convert: fn(f32) -> Vec<u8>) -> Tensors {
    let convert = |(own, shape, data): &(Dtype, Vec<usize>, Vec<u8>)| match own {
        Dtype::F32 => {
            let values = data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            (dtype, shape.clone(), values.flat_map(convert).collect())
        }
        other => (*other, shape.clone(), data.clone()),
    };
    tensors.iter().map(|(name, tensor)| (name.clone(), convert(tensor))).collect()
}

/// A run of two steps in a folder `run`.
fn run(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    let path = run.to_str().unwrap();
    succeed(
        ["train", "--model", "alexnet", "--data", "synthetic", "--limit-train", "8", "--limit-test", "4"]
            .into_iter()
            .chain(["--batch-size", "4", "--epochs", "1", "--quiet", "--run-dir", path]),
    );
    run
}

fn eval(file: &Path, more: &[&str]) -> Vec<String> {
    let arguments = ["eval", "--checkpoint", file.to_str().unwrap(), "--data", "synthetic", "--limit", "8"];
    arguments.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

#[test]
fn what_pytorch_would_load_is_loaded() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(temp.path());
    let tensors = read(&checkpoint(&run, "best"));
    let path = temp.path().join("weights.safetensors");
    let evaluated = |tensors: &Tensors| {
        write(tensors, &path);
        succeed(eval(&path, &["--model", "alexnet"]))
    };
    let renamed = |rename: &dyn Fn(&str) -> String| -> Tensors {
        tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
    };
    let expected = evaluated(&tensors);
    // A run folder stands for its best weights, which name their network.
    assert_eq!(succeed(eval(&run, &[])), expected);
    for prefix in ["module.", "_orig_mod.", "_orig_mod.module.", "module.module._orig_mod."] {
        assert_eq!(evaluated(&renamed(&|name| format!("{prefix}{name}"))), expected, "{prefix}");
    }
    let inner = renamed(&|name| name.replacen("features.", "features.module.", 1));
    assert_eq!(evaluated(&inner), expected);
    assert_eq!(
        evaluated(&converted(&tensors, Dtype::F64, |x| f64::from(x).to_le_bytes().to_vec())),
        expected
    );
    evaluated(&converted(&tensors, Dtype::F16, |x| f16::from_f32(x).to_le_bytes().to_vec()));
    evaluated(&converted(&tensors, Dtype::BF16, |x| bf16::from_f32(x).to_le_bytes().to_vec()));
    let mut more = tensors.clone();
    for name in ["epoch", "num_batches_tracked", "features.77.num_batches_tracked"] {
        more.insert(name.to_owned(), (Dtype::I64, vec![], 9i64.to_le_bytes().to_vec()));
    }
    more.insert("best_acc".to_owned(), (Dtype::F64, vec![1], 0.5f64.to_le_bytes().to_vec()));
    assert_eq!(evaluated(&more), expected);
    // Without `num_batches_tracked`, and as the start of a training.
    let fewer: Tensors =
        tensors.into_iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect();
    assert_eq!(evaluated(&fewer), expected);
    for init in [&path, &run] {
        let target = temp.path().join(format!("from-{}", init.file_name().unwrap().display()));
        let short =
            ["train", "--model", "alexnet", "--data", "synthetic", "--limit-train", "4", "--limit-test", "4"];
        let paths = ["--init", init.to_str().unwrap(), "--run-dir", target.to_str().unwrap()];
        succeed(short.into_iter().chain(["--max-steps", "1", "--quiet"]).chain(paths));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(temp.path());
    let bytes = checkpoint(&run, "best");
    let tensors = read(&bytes);
    let path = temp.path().join("weights.safetensors");
    type Break = fn(&mut Tensors);
    let cases: [(Break, &[&str]); 6] = [
        (|all| drop(all.remove("features.0.bias")), &["`features.0.bias` is missing"]),
        (
            |all| all.retain(|name, _| !name.starts_with("features.")),
            &["`features.0.bias`, `features.0.weight`, `features.1.bias` and ", " more are missing"],
        ),
        (
            |all| {
                let bias = all["features.0.bias"].clone();
                all.insert("fc.bias".to_owned(), bias);
            },
            &["the network has no `fc.bias`"],
        ),
        (
            |all| {
                let (dtype, _, data) = all["features.0.bias"].clone();
                all.insert("features.0.bias".to_owned(), (dtype, vec![2, 32], data));
            },
            &["`features.0.bias` has shape [2, 32], not [64]"],
        ),
        (
            |all| {
                for name in ["head.0.weight", "features.0.weight", "features.4.weight"] {
                    all.get_mut(name).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
                }
            },
            &["`features.0.weight` holds NaN"],
        ),
        (
            |all| all.get_mut("features.0.bias").unwrap().0 = Dtype::I32,
            &["`features.0.bias` is I32, and weights must be F32, F16, BF16 or F64"],
        ),
    ];
    for (break_it, words) in cases {
        let mut broken = tensors.clone();
        break_it(&mut broken);
        write(&broken, &path);
        // The same message every time.
        let message = fail(1, eval(&path, &["--model", "alexnet"]));
        assert_eq!(message, fail(1, eval(&path, &["--model", "alexnet"])));
        for word in words.iter().chain(&["weights.safetensors"]) {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
    write(&tensors, &path);
    let message = fail(1, eval(&path, &["--model", "nin"]));
    assert!(message.contains("it fits `alexnet`"), "{message}");
    let message = fail(1, eval(&path, &[]));
    assert!(message.contains("give it with --model alexnet"), "{message}");
    // A bit that was flipped in transit.
    let mut flipped = bytes;
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, flipped).unwrap();
    let message = fail(1, eval(&path, &[]));
    assert!(message.contains("its tensors are not those that were written"), "{message}");
}

#[test]
fn weights_whose_answers_are_not_finite_are_called_no_use() {
    let temp = tempfile::tempdir().unwrap();
    let mut tensors = read(&checkpoint(&run(temp.path()), "best"));
    for value in tensors.get_mut("head.0.weight").unwrap().2.as_chunks_mut().0 {
        *value = 3e38f32.to_le_bytes();
    }
    let path = temp.path().join("weights.safetensors");
    write(&tensors, &path);
    let message = fail(1, eval(&path, &["--model", "alexnet"]));
    assert!(message.contains("these weights are unusable"), "{message}");
    let image = temp.path().join("image.png");
    image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8, y as u8, 9])).save(&image).unwrap();
    let arguments =
        ["predict", "--model", "alexnet", "--checkpoint", path.to_str().unwrap(), image.to_str().unwrap()];
    let message = fail(1, arguments);
    assert!(message.contains("1 of 1 images"), "{message}");
}

#[test]
fn what_is_no_weights_file_is_called_what_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("weights.safetensors");
    let padded = |beginning: &[u8]| [beginning, &[0; 600]].concat();
    let mut cut = 800u64.to_le_bytes().to_vec();
    cut.extend(b"{\"features.0.bias\":{\"dtype\":\"F32\"");
    let huge = [&u64::MAX.to_le_bytes()[..], b"{"].concat();
    for (bytes, words) in [
        (vec![], "it is empty"),
        (padded(b"PK\x03\x04....archive/data.pkl"), "it is cut short or damaged"),
        (
            padded(b"\x80\x02\x8a\nl\xfc\x9cF"),
            "it is a Python pickle, but not of torch.save: save its state_dict()",
        ),
        (padded(b"\x1f\x8b\x08"), "gzip: unpack it first"),
        (padded(b"\x08\x07\x12\x07pytorch"), "an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n".to_vec(), "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><head>".to_vec(), "a web page (HTML)"),
        (cut, "it is cut short"),
        (huge, "it is damaged or of another format"),
    ] {
        fs::write(&path, bytes).unwrap();
        let message = fail(1, eval(&path, &["--model", "alexnet"]));
        assert!(message.contains(words) && message.contains("weights.safetensors"), "{words}: {message}");
        let target = temp.path().join("run");
        let options =
            ["--data", "synthetic", "--init", path.to_str().unwrap(), "--run-dir", target.to_str().unwrap()];
        let message = fail(1, ["train", "--model", "alexnet"].into_iter().chain(options));
        assert!(message.contains(words), "{words}: {message}");
        assert!(!target.exists());
    }
    fs::remove_file(&path).unwrap();
    let message = fail(1, eval(temp.path(), &["--model", "alexnet"]));
    assert!(
        message.contains("a folder without weights: name a safetensors file or a run folder"),
        "{message}"
    );
}

/// Files of real PyTorch, made by `tests/pytorch/weights.py`.
fn of_pytorch(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pytorch/weights").join(name).display().to_string()
}

#[test]
fn files_of_torch_save_are_taken_wherever_weights_are() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).display().to_string();
    let small = &*of_pytorch("small.toml");
    let model = ["--model", small];
    let evaluated = |file: &str, more: &[&str]| succeed(eval(Path::new(file), more));
    let expected = evaluated(&of_pytorch("expected.safetensors"), &model);
    for name in ["state_dict.pt", "notebook.pth", "parallel.pth", "bfloat16.pt", "views.pt"] {
        assert_eq!(evaluated(&of_pytorch(name), &model), expected, "{name}");
    }
    // A checkpoint names its network.
    let made = path("made.safetensors");
    let import = |file: &str, network: &str, out: &str| {
        ["import", file, "--network", network, "--out", out].map(str::to_owned)
    };
    let told = succeed(import(&of_pytorch("notebook.pth"), small, &made));
    assert!(told.contains("made.safetensors: 388 parameters of `small`, from "), "{told}");
    assert_eq!(evaluated(&made, &[]), expected);
    assert_eq!(evaluated(&made, &model), expected);
    let (of_torch, of_ours) =
        (read(&fs::read(of_pytorch("expected.safetensors")).unwrap()), read(&fs::read(&made).unwrap()));
    assert_eq!(of_torch, of_ours);

    let image = path("image.png");
    image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 7, y as u8 * 5, 9])).save(&image).unwrap();
    let predicted = |file: &str, more: &[&str]| {
        succeed(["predict", "--checkpoint", file, "--json", image.as_str()].iter().chain(more))
    };
    let expected = predicted(&of_pytorch("expected.safetensors"), &model);
    assert_eq!(predicted(&made, &[]), expected);
    assert_eq!(predicted(&of_pytorch("legacy.pth"), &model), expected);

    for (init, run) in [(&*of_pytorch("training.pth"), path("run-a")), (&*made, path("run-b"))] {
        let short =
            ["train", "--data", "synthetic", "--limit-train", "4", "--limit-test", "4", "--max-steps", "1"];
        let more = ["--quiet", "--model", small, "--init", init, "--run-dir", &run];
        succeed(short.into_iter().chain(more));
    }
    let [a, b] = ["run-a", "run-b"].map(|run| read(&checkpoint(&temp.path().join(run), "last")));
    assert_eq!(a, b);

    // The error names what does not fit, and nothing is written.
    for (file, network, words) in [
        (
            "state_dict.pt",
            "lenet",
            &[
                "`conv1.bias`, `conv1.weight`, `conv2.bias` and 7 more are missing",
                "the network has no `0.weight`",
            ][..],
        ),
        ("module.pt", small, &["module.pt is not a usable", "it is an object of __main__.Module"]),
        ("expected.safetensors", "nin", &["the network has no `0.weight`"]),
    ] {
        let message = fail(1, import(&of_pytorch(file), network, &path("other.safetensors")));
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert!(!temp.path().join("other.safetensors").exists());
    }
    let wide = path("wide.toml");
    fs::write(&wide, fs::read_to_string(small).unwrap().replace("out_features = 10", "out_features = 12"))
        .unwrap();
    let message = fail(1, import(&of_pytorch("state_dict.pt"), &wide, &path("other.safetensors")));
    assert!(message.contains("`4.bias` has shape [10], not [12]"), "{message}");
    let message = fail(1, import(&of_pytorch("state_dict.pt"), small, &made));
    assert!(message.contains("made.safetensors exists already: name another file with --out"), "{message}");
    let message = fail(1, import(&made, small, &path("other.safetensors")));
    assert!(message.contains("is a checkpoint already, of `small`"), "{message}");
    let message = fail(1, eval(Path::new(&made), &["--model", "nin"]));
    assert!(message.contains("holds weights of `small`, not of `nin`"), "{message}");
}
