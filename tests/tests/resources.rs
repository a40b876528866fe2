//! Requests for threads and memory that are not available are refused in one sentence.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_tests::{command, trainer};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const TRAIN: [&str; 12] = [
    "train",
    "--model",
    "alexnet",
    "--data",
    "synthetic",
    "--limit-train",
    "8",
    "--limit-test",
    "4",
    "--epochs",
    "1",
    "--quiet",
];

/// `trainer` with this many KiB of address space, and `RAYON_NUM_THREADS`.
fn limited(kibibytes: u32, threads: &str, arguments: &[&str]) -> Output {
    Command::new("sh")
        .args(["-c", "ulimit -v \"$0\" && exec \"$@\"", &kibibytes.to_string()])
        .arg(trainer())
        .args(arguments)
        .env_remove("CIFAR10_DIR")
        .env("RAYON_NUM_THREADS", threads)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The one message of a program that failed by itself.
fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{:?}: {stderr}", output.status);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let messages: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(messages.len(), 1, "{stderr}");
    messages[0].to_owned()
}

#[test]
fn numbers_of_threads_that_the_option_does_not_take_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let train: Vec<&str> = TRAIN.into_iter().chain(["--run-dir", run.to_str().unwrap()]).collect();
    for (value, arguments) in [
        ("5000", &train[..]),
        ("1025", &["summary"]),
        ("-1", &["data", "stats", "--data", "synthetic"]),
        ("many", &["bench", "--model", "nin"]),
        ("2.5", &["eval", "--checkpoint", run.to_str().unwrap()]),
        ("99999999999999999999", &train),
    ] {
        let output = command(arguments).env("RAYON_NUM_THREADS", value).output().unwrap();
        if arguments[0] == "eval" {
            // There is nothing to evaluate, which is reported first.
            refusal(&output);
            continue;
        }
        let message = refusal(&output);
        assert!(message.contains(value) && message.contains("RAYON_NUM_THREADS"), "{message}");
        assert!(message.contains("from 1 to 1024"), "{message}");
        assert!(!run.exists());
    }
    for value in ["", "0", "1"] {
        assert!(command(["summary"]).env("RAYON_NUM_THREADS", value).output().unwrap().status.success());
    }
}

#[test]
fn threads_that_have_no_room_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let train: Vec<&str> = TRAIN.into_iter().chain(["--run-dir", run.to_str().unwrap()]).collect();
    for threads in ["300", "900", "1000"] {
        let message = refusal(&limited(600_000, threads, &train));
        // Checked beforehand: a thread that runs out of memory during its start sometimes ends the process.
        let cause = "computing threads cannot be started (the limit of address space, ulimit -v, leaves";
        assert!(message.contains(&format!("{threads} {cause}")), "{message}");
        assert!(message.contains("give fewer with --threads or RAYON_NUM_THREADS"), "{message}");
    }
    assert!(!run.exists());
}

/// The allocator's share of each thread does not take it from the others.
#[test]
fn threads_that_have_room_start() {
    for kibibytes in [270_000, 320_000, 370_000, 420_000] {
        let output = limited(kibibytes, "64", &["summary"]);
        assert!(output.status.success(), "{kibibytes}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn memory_that_is_not_there_is_refused_and_never_an_abort() {
    let temp = tempfile::tempdir().unwrap();
    let (mut refused, mut done) = (0, 0);
    for kibibytes in [120_000, 160_000, 200_000, 250_000, 300_000, 350_000, 420_000, 500_000, 4_000_000] {
        let run = temp.path().join(kibibytes.to_string());
        let train: Vec<&str> = TRAIN.into_iter().chain(["--run-dir", run.to_str().unwrap()]).collect();
        let output = limited(kibibytes, "2", &train);
        if output.status.success() {
            done += 1;
            continue;
        }
        refused += 1;
        let message = refusal(&output);
        assert!(message.contains("MiB"), "{kibibytes}: {message}");
    }
    assert!(refused >= 2 && done >= 1, "{refused} refused, {done} done");
}

/// Memory that is allocated in small pieces cannot be checked beforehand.
#[test]
fn memory_that_nobody_foresaw_ends_in_a_sentence_too() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    pointwise_tests::succeed(TRAIN.iter().copied().chain(["--run-dir", run.to_str().unwrap()]));
    let step = "{\"kind\":\"step\",\"epoch\":1,\"step\":1,\"loss\":2.0,\"seconds\":0.5}\n";
    fs::write(run.join("metrics.jsonl"), step.repeat(400_000)).unwrap();
    let message = refusal(&limited(110_000, "1", &["runs", temp.path().to_str().unwrap()]));
    assert!(
        message.ends_with("MiB of memory are not available: free some, or raise the limit of this process"),
        "{message}"
    );
}

#[test]
fn a_batch_that_does_not_fit_names_what_it_takes_and_the_option() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let more = ["--limit-train", "4000", "--batch-size", "65536", "--run-dir", run.to_str().unwrap()];
    for engine in ["cpu", "reference"] {
        let mut train: Vec<&str> =
            TRAIN.iter().copied().filter(|word| !["--limit-train", "8"].contains(word)).collect();
        train.extend(more);
        train.extend(["--engine", engine]);
        let message = refusal(&limited(1_500_000, "2", &train));
        assert!(message.contains("in batches of 4000 "), "{message}");
        assert!(
            message.contains("ulimit -v") && message.contains("give a smaller --batch-size"),
            "{message}"
        );
        // Before the run begins.
        assert!(!run.exists());
        let bench = ["bench", "--model", "nin", "--batch", "65536", "--engine", engine];
        let message = refusal(&limited(1_500_000, "2", &bench));
        assert!(message.contains("in batches of 65536 ") && message.contains("GiB"), "{message}");
    }
}

/// A training of one step for the table of numbers, with the option in place of the one of that name.
fn with(option: &str, value: &str, run: &Path) -> Vec<String> {
    let mut words: Vec<String> = TRAIN.iter().map(|word| (*word).to_owned()).collect();
    words[2] = "lenet".to_owned();
    if let Some(at) = words.iter().position(|word| word == option) {
        words.drain(at..at + 2);
    }
    words.extend([option, value, "--run-dir"].map(str::to_owned));
    words.push(run.display().to_string());
    words
}

/// Every value of a numeric option ends in a training or in one sentence: small, large, negative, not a number.
#[test]
fn every_number_of_an_option_works_or_is_refused_in_a_sentence() {
    let temp = tempfile::tempdir().unwrap();
    let whole = ["0", "-1", "2.5", "NaN", "4294967296", "9223372036854775808", "99999999999999999999"];
    let real = ["-1", "NaN", "inf", "1e999"];
    let options: [(&str, &[&str]); 19] = [
        ("--epochs", &whole),
        ("--batch-size", &whole),
        ("--seed", &["-1", "2.5", "9223372036854775808"]),
        ("--data-seed", &["-1", "2.5", "9223372036854775808"]),
        ("--val-split", &["-1", "8", "4294967295", "4294967296"]),
        ("--test-split", &["-1", "NaN", "1.5"]),
        ("--limit-train", &["0", "-1", "4294967295", "4294967296"]),
        ("--limit-test", &["0", "-1", "4294967295", "4294967296"]),
        ("--max-steps", &["0", "-1", "9223372036854775808"]),
        ("--log-every", &["0", "-1", "4294967296"]),
        ("--threads", &whole),
        ("--lr", &real),
        ("--weight-decay", &real),
        ("--label-smoothing", &["-1", "1", "NaN"]),
        ("--clip-norm", &["0", "-1", "NaN", "inf"]),
        ("--dropout", &["1", "-1", "NaN"]),
        ("--last-epoch", &["0", "1.5", "NaN"]),
        ("--augment", &["{ crop = 4294967296 }", "{ crop = -1 }", "{ cutout = 4294967295 }"]),
        ("--lookahead", &["{ every = 0, decay = 0.5 }", "{ every = 5, decay = nan }"]),
    ];
    for (option, values) in options {
        for value in values {
            let run = temp.path().join("run");
            let words = with(option, value, &run);
            let output = limited(6_000_000, "2", &words.iter().map(String::as_str).collect::<Vec<_>>());
            let said = String::from_utf8_lossy(&output.stderr);
            let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
            assert!(
                matches!(output.status.code(), Some(1 | 2)) && errors == 1 && !said.contains("panicked"),
                "{option} {value}: {:?}: {said}",
                output.status
            );
            assert!(!run.exists(), "{option} {value}: a run was begun");
        }
    }
}

/// A control group of the first or the second version with this many MiB; `None` if this process may not make one.
struct ControlGroup(PathBuf);

impl ControlGroup {
    fn new(mebibytes: u64) -> Option<Self> {
        let name = format!("pointwise-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = match first.is_dir() {
            true => (first, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let group = Self(root.join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), (mebibytes << 20).to_string()).ok()?;
        Some(group)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut shell = pointwise_tests::clean(Command::new("sh"), ["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        shell.arg(self.0.join("cgroup.procs")).arg(trainer()).args(arguments).output().unwrap()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// In a container, memory is promised that does not exist, and a process that writes to it is killed: 137, without a message.
#[test]
fn what_a_control_group_does_not_leave_is_refused_before_it_is_taken() {
    let Some(group) = ControlGroup::new(300) else {
        eprintln!("skipped: this process may not make a control group");
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let network = |name: &str, side: u32, layers: &str| {
        let description = format!(
            "name = \"{name}\"\ninput = [3, {side}, {side}]\nlayers = [{layers}, {{ Linear = {{ out_features = 10 }} }}]\n"
        );
        fs::write(path(name), description).unwrap();
        path(name)
    };
    let linear =
        |features: u32| format!("\"Flatten\", {{ Linear = {{ out_features = {features} }} }}, \"ReLU\"");
    let conv = |channels: u32, side: u32| {
        format!(
            "{{ Conv2d = {{ out_channels = {channels}, kernel_size = {side}, stride = {side} }} }}, \"ReLU\""
        )
    };
    let big = &network("big.toml", 32, &linear(60_000));
    // Only a checkpoint's copies of the parameters are too large.
    let copied = &network("copied.toml", 32, &linear(4_000));
    // Only the images are.
    let images = &network("images.toml", 512, &format!("{}, \"Flatten\"", conv(4, 16)));
    // Only the maps are.
    let maps = &network(
        "maps.toml",
        1024,
        &format!("{}, {}, \"AdaptiveAvgPool2d\", \"Flatten\"", conv(64, 1), conv(64, 1)),
    );
    let (run, file) = (&path("run"), &path("big.safetensors"));
    // Without a block on the disk.
    fs::File::create(file).unwrap().set_len(1 << 30).unwrap();
    let few = ["--data", "synthetic", "--limit-test", "4", "--epochs", "1", "--quiet", "--run-dir", run];
    let train = |model, more: &[&'static str]| [&["train", "--model", model], &few[..], more].concat();
    let lines: [Vec<&str>; 13] = [
        train("lenet", &["--limit-train", "200000"]),
        train(big, &["--limit-train", "8", "--engine", "cpu"]),
        train(big, &["--limit-train", "8", "--engine", "reference"]),
        train(copied, &["--limit-train", "8", "--engine", "cpu"]),
        train(copied, &["--limit-train", "8", "--engine", "reference"]),
        train(images, &["--limit-train", "25", "--batch-size", "25"]),
        train("lenet", &["--limit-train", "30000", "--batch-size", "30000"]),
        vec!["bench", "--model", "lenet", "--batch", "65536"],
        vec!["bench", "--model", "nin", "--phase", "infer", "--batch", "65536"],
        vec!["bench", "--model", big, "--phase", "infer"],
        vec!["bench", "--model", maps, "--phase", "infer"],
        vec!["eval", "--model", "lenet", "--data", "synthetic", "--checkpoint", file],
        vec!["import", file, "--network", "lenet", "--out", run],
    ];
    for line in lines {
        let output = group.run(&line);
        // What is left depends on the file cache of the group.
        let message = refusal(&output);
        assert!(message.contains("the control group of this process leaves"), "{line:?}: {message}");
        assert!(!Path::new(run).exists(), "{line:?}");
    }
    assert!(group.run(&train("lenet", &["--limit-train", "8"])).status.success());
}

/// There are as many threads as processors that the process may use.
#[test]
fn the_processors_that_a_process_may_use_decide_how_many_threads_there_are() {
    let threads = |program: &[&str]| {
        let mut bench = pointwise_tests::clean(Command::new(program[0]), &program[1..]);
        let words = ["bench", "--model", "lenet", "--batch", "1", "--steps", "1", "--warmup", "0", "--json"];
        let output = bench.arg(trainer()).args(words).output().ok()?;
        let row: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        row["threads"].as_u64()
    };
    // This process may not be allowed to use the first one.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let one = allowed.trim().split([',', '-']).next().unwrap();
    assert_eq!(threads(&["taskset", "-c", one]), Some(1));
}

/// The last batch of an epoch may have one image, of which a BatchNorm after the last convolution has one value.
#[test]
fn a_last_batch_without_a_variance_is_refused_before_the_run_begins() {
    let temp = tempfile::tempdir().unwrap();
    let (run, network) = (temp.path().join("run"), temp.path().join("flat.toml"));
    fs::write(
        &network,
        "name = \"flat\"\ninput = [3, 8, 8]\nlayers = [{ Conv2d = { out_channels = 4, kernel_size = 8 } }, \"BatchNorm2d\", \
         \"Flatten\", { Linear = { out_features = 10 } }]\n",
    )
    .unwrap();
    let [run, network] = [&run, &network].map(|path| path.to_str().unwrap());
    let train = |more: &[&'static str]| {
        let words = ["train", "--model", network, "--data", "synthetic", "--epochs", "1", "--run-dir", run];
        [&words[..], &["--limit-train", "9", "--limit-test", "1", "--batch-size"], more].concat()
    };
    for engine in ["cpu", "reference"] {
        for batch in ["4", "8", "1"] {
            let message = pointwise_tests::fail(1, train(&[batch, "--engine", engine]));
            assert!(message.contains("BatchNorm at 1 needs more than one value"), "{message}");
            assert!(
                message.contains(if batch == "1" { "larger batch-size" } else { "drop-last = true" }),
                "{message}"
            );
            assert!(!Path::new(run).exists());
        }
    }
    pointwise_tests::succeed(train(&["4", "--drop-last", "true"]));
}
