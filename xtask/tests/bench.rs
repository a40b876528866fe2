//! `cargo xtask bench` with stand-ins for the trainer and for PyTorch.

#![cfg(unix)]

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-peer.sh");
const PYTORCH: &str = "pointwise,pytorch,pytorch-channels-last";

/// Exit code, stdout, stderr.
fn bench(folder: &Path, options: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("bench")
        .args(options)
        .env("FAKE", folder)
        .env_remove("POINTWISE_PYTHON")
        .current_dir(folder)
        .output()
        .expect("xtask runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// A measurement of stand-ins, with its record in `out.json`.
fn measure(folder: &Path, options: &[&str]) -> (i32, String, String) {
    let fixed = ["--trainer", FAKE, "--python", FAKE, "--out", "out.json", "--models", "nin"];
    bench(folder, &[&fixed, options].concat())
}

fn record(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("out.json")).expect("a record");
    serde_json::from_str(&text).expect("JSON")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn rounds_are_interleaved_recorded_and_shown() {
    let folder = folder();
    let options = ["--only", PYTORCH, "--phases", "train", "--rounds", "3", "--steps", "2", "--threads", "3"];
    let (code, stdout, stderr) = measure(folder.path(), &options);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("round 3 of 3: nin, train, pytorch: 750.0 ms"), "{stderr}");
    let cells: Vec<&str> = stdout.lines().nth(2).expect("a row").split('|').map(str::trim).collect();
    assert_eq!(cells[1..5], ["`nin`", "training", "250", "250, 250"], "{stdout}");
    assert_eq!(cells[8..12], ["3.00x", "2.00x", "-", "-"], "{stdout}");

    let calls = fs::read_to_string(folder.path().join("calls")).expect("calls");
    assert_eq!(calls.matches("summary --model nin --graph\n").count(), 1, "{calls}");
    let calls: Vec<&str> = calls.lines().filter(|call| call.contains("--json")).collect();
    assert_eq!(calls.len(), 9, "one process each time");
    assert_eq!(
        calls[0],
        "bench --engine cpu --device cpu --json --model nin --phase train --batch 126 --threads 3 --warmup 2 --steps 2"
    );
    assert!(calls[1].contains("torch_peer.py --memory-format contiguous --json --graph /"), "{}", calls[1]);
    assert!(calls[1].contains("/0.json --phase train --batch 126"), "{}", calls[1]);
    assert!(calls[1].ends_with(" --lr 0.001 --weight-decay 0.0005"), "the study's: {}", calls[1]);
    let ours: Vec<usize> = (0..9).filter(|&call| calls[call].starts_with("bench")).collect();
    assert_eq!(ours, [0, 5, 7], "each round begins one further on");

    let record = record(folder.path());
    let rows = record["rows"].as_array().expect("rows");
    let places: Vec<(u64, u64, &str)> = rows
        .iter()
        .map(|row| {
            let number = |key: &str| row[key].as_u64().expect("a number");
            (number("round"), number("place"), row["contender"].as_str().expect("a name"))
        })
        .collect();
    assert_eq!(places[3..6], [(2, 1, "pytorch"), (2, 2, "pytorch-channels-last"), (2, 3, "pointwise")]);
    assert_eq!(
        record["command"],
        format!(
            "cargo xtask bench --threads 3 --rounds 3 --steps 2 --batch 126 --models nin --phases train --engine cpu --only {PYTORCH}"
        )
    );
    let text = record.to_string();
    assert!(!text.contains(FAKE) && !text.contains(folder.path().to_str().expect("UTF-8")), "{text}");

    // The record alone gives the same tables.
    let (code, table, _) = bench(folder.path(), &["--table", "out.json"]);
    assert_eq!((code, table.trim()), (0, stdout.trim()));
    let (code, _, stderr) = bench(folder.path(), &["--layers", "out.json"]);
    assert!(code == 1 && stderr.contains("out.json has no times of layers"), "{stderr}");
}

#[test]
fn on_a_gpu_precisions_are_compared_and_pytorch_stays_for_all_rounds() {
    let folder = folder();
    fs::write(folder.path().join("train-exit"), "0").expect("a file");
    let options = ["--device", "cuda", "--phases", "train", "--rounds", "2", "--precisions", "tf32,bf16"];
    let (code, stdout, stderr) = measure(folder.path(), &options);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("round 2 of 2: nin, train, pytorch-graph, bf16: 2.000 ms"), "{stderr}");
    let cells = |line: usize| -> Vec<&str> {
        stdout.lines().nth(line).expect("a row").split('|').map(str::trim).collect()
    };
    let first = [
        "`nin`",
        "training",
        "tf32",
        "1.00",
        "1.00, 1.00",
        "126000",
        "10.0",
        "1.50",
        "0.500",
        "50 %",
        "2.00x",
        "10.0x",
    ];
    assert_eq!(cells(2)[1..13], first, "{stdout}");
    assert_eq!(cells(3)[3..5], ["bf16", "1.00"], "{stdout}");
    assert!(
        stdout.contains("groups of 50 steps") && stdout.contains("images that each program draws anew"),
        "{stdout}"
    );

    let calls = fs::read_to_string(folder.path().join("calls")).expect("calls");
    let count = |part: &str| calls.lines().filter(|call| call.contains(part)).count();
    assert_eq!(count("torch_peer.py --device cuda --settings graph --serve"), 1, "one process: {calls}");
    assert_eq!(count("torch_peer.py --device cuda --settings notebook --serve"), 1, "{calls}");
    // Two precisions of ours and of the graph, one of the notebook, in two rounds.
    assert_eq!((count("bench --engine cuda --device cuda"), count("asked")), (4, 6), "{calls}");
    assert_eq!(count("asked [\"--json\",\"--graph\",\"/"), 6, "{calls}");
    let question = "/0.json\",\"--phase\",\"train\",\"--batch\",\"126\",\"--threads\",\"2\",\
                    \"--warmup\",\"10\",\"--steps\",\"20\",\"--precision\",\"bf16\",\"--lr\",\"0.001\",\"--weight-decay\",\"0.0005\"]";
    assert_eq!(count(question), 2, "{calls}");
    assert_eq!(
        count("train --quiet --model nin --device cuda --engine cuda --precision tf32 --epochs 10"),
        1,
        "{calls}"
    );

    let record = record(folder.path());
    assert!(record["card"]["name"].is_string(), "{record}");
    let rows = record["rows"].as_array().expect("rows");
    let turns: Vec<(&str, Option<&str>)> = rows[..5]
        .iter()
        .map(|row| (row["contender"].as_str().expect("a name"), row["precision"].as_str()))
        .collect();
    let expected = [
        ("pointwise", Some("tf32")),
        ("pytorch-graph", Some("tf32")),
        ("pointwise", Some("bf16")),
        ("pytorch-graph", Some("bf16")),
        ("pytorch-notebook", None),
    ];
    assert_eq!(turns, expected);
    // The card's rates are measured once for each precision.
    let ours: Vec<&str> = calls.lines().filter(|call| call.starts_with("bench")).collect();
    let told = |call: usize| ours[call].split_once("--precision").expect("a precision").1;
    let expected = [" tf32", " bf16 --bandwidth-gb 3000"];
    assert_eq!([told(0), told(1)], expected, "{calls}");
    assert_eq!(told(2), " tf32 --peak-gflops 50000 --bandwidth-gb 3000", "{calls}");
    let studies = record["studies"].as_array().expect("studies");
    assert_eq!((studies.len(), &studies[0]["synthetic"]), (2, &Value::Bool(true)));
    let (code, table, _) = bench(folder.path(), &["--table", "out.json"]);
    assert_eq!((code, table.trim()), (0, stdout.trim()));

    // A server that ends and a study that fails lose only their rows.
    fs::write(folder.path().join("fail"), "pytorch-graph").expect("a file");
    fs::write(folder.path().join("train-exit"), "1").expect("a file");
    let options = ["--device", "cuda", "--phases", "train", "--rounds", "1", "--precisions", "f32"];
    let (code, stdout, stderr) = measure(folder.path(), &options);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("pytorch-graph failed on nin, train, f32: it ended before it answered"),
        "{stderr}"
    );
    assert!(stderr.contains("a study in f32 failed on nin: see the trainer's message above"), "{stderr}");
    assert!(stdout.contains("Processes that failed: 2."), "{stdout}");
}

#[test]
fn a_benchmark_that_is_cut_off_leaves_its_rows() {
    let folder = folder();
    let options = ["--only", PYTORCH, "--phases", "eval", "--rounds", "2", "--steps", "1"];
    fs::write(folder.path().join("kill"), "pytorch-channels-last").expect("a file");
    let fixed = ["--trainer", FAKE, "--python", FAKE, "--out", "out.json", "--models", "nin"];
    let status = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("bench")
        .args([fixed.as_slice(), &options].concat())
        .env("FAKE", folder.path())
        .current_dir(folder.path())
        .status()
        .expect("xtask runs");
    assert_eq!(status.code(), None, "{status}");
    let cut = record(folder.path());
    assert_eq!((cut["rows"].as_array().expect("rows").len(), &cut["unfinished"]), (2, &Value::Bool(true)));
    let (code, table, stderr) = bench(folder.path(), &["--table", "out.json"]);
    assert!(code == 0 && table.contains("Cut off before its end."), "{stderr}{table}");

    fs::remove_file(folder.path().join("kill")).expect("a file");
    let (code, table, stderr) = measure(folder.path(), &options);
    assert!(code == 0 && !table.contains("Cut off"), "{stderr}{table}");
    assert_eq!(record(folder.path())["unfinished"], Value::Null);
}

#[test]
fn a_peer_that_fails_costs_its_rows_and_the_exit_code() {
    let folder = folder();
    fs::write(folder.path().join("fail"), "pytorch").expect("a file");
    let options = ["--only", PYTORCH, "--phases", "eval", "--rounds", "1", "--steps", "1"];
    let (code, _, stderr) = measure(folder.path(), &options);
    assert_eq!(code, 1);
    assert!(stderr.contains("error: pytorch failed on nin, eval: no luck in"), "{stderr}");
    let record = record(folder.path());
    assert_eq!(record["rows"].as_array().expect("rows").len(), 2);
    assert_eq!(record["failures"], serde_json::json!(["round 1: pytorch failed on nin, eval"]));

    // Without ours there is nothing to compare with.
    fs::remove_file(folder.path().join("out.json")).expect("a record");
    fs::write(folder.path().join("fail"), "pointwise").expect("a file");
    let (code, _, stderr) = measure(folder.path(), &options);
    assert!(code == 1 && stderr.contains("error: pointwise failed on nin, eval: no luck"), "{stderr}");
    assert!(!folder.path().join("out.json").exists());
}

#[test]
fn networks_are_the_trainers_and_files_are_named_without_their_folders() {
    let folder = folder();
    fs::write(folder.path().join("lacks"), "pytorch").expect("a file");
    let fixed =
        ["--trainer", FAKE, "--python", FAKE, "--out", "out.json", "--models", "resnet18,deep/own.toml"];
    let options = ["--only", PYTORCH, "--rounds", "2", "--steps", "1", "--phases", "eval"];
    let (code, stdout, stderr) = bench(folder.path(), &[fixed.as_slice(), &options].concat());
    assert_eq!(code, 0, "{stderr}");
    // A network that cannot be expressed is not asked for again.
    let said = "pytorch is left out of own: it has no pools";
    assert_eq!(stderr.matches(said).count(), 1, "{stderr}");
    assert!(stdout.contains("PyTorch is left out of `own`: it has no pools."), "{stdout}");
    let record = record(folder.path());
    let command = record["command"].as_str().expect("a command");
    assert!(command.contains("--models resnet18,own.toml"), "{command}");
    let lacking = serde_json::json!({ "contender": "pytorch", "model": "own", "reason": "it has no pools" });
    assert_eq!(record["lacking"].as_array().expect("lacking")[1], lacking);
    let rows = record["rows"].as_array().expect("rows");
    let models: Vec<&str> = rows.iter().filter_map(|row| row["model"].as_str()).collect();
    assert_eq!((models.len(), models[2]), (8, "own"), "{models:?}");
    assert!(rows.iter().all(|row| row["parameters"] == 1000), "{rows:?}");
    let calls = fs::read_to_string(folder.path().join("calls")).expect("calls");
    assert!(calls.contains("--json --model deep/own.toml --phase"), "{calls}");

    // The figures of another network than ours are not a row.
    fs::remove_file(folder.path().join("lacks")).expect("a file");
    fs::write(folder.path().join("other"), "pytorch").expect("a file");
    let (code, _, stderr) = measure(folder.path(), &options);
    assert_eq!(code, 1);
    assert!(stderr.contains("pytorch timed a nin of 999 parameters, and ours has 1000"), "{stderr}");
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let folder = folder();
    fs::write(folder.path().join("no-torch"), "").expect("a file");
    fs::write(folder.path().join("bad.json"), "{}").expect("a file");
    let cases: [(&[&str], i32, &str); 18] = [
        (&["--only", "jax"], 2, "`jax` is not a contender: choose from pointwise, pytorch"),
        (&["--only", "burn,burn"], 2, "burn is given twice"),
        (&["--rounds", "0"], 2, "0 is not in 1"),
        (&["--steps", "0"], 2, "0 is not in 1"),
        (&["--threads", "0"], 2, "0 is not in 1"),
        (
            &["--trainer", FAKE, "--models", "vgg"],
            1,
            "`trainer summary` failed on vgg (exit status: 2): see its message above",
        ),
        (
            &["--trainer", FAKE, "--models", "nin,own/nin.toml"],
            1,
            "two of the networks are called nin: give one of them another name",
        ),
        (&["--phases", "test"], 2, "`test` is not a phase: choose from train, eval"),
        (&["--build-peers", "--table"], 2, "cannot be used with"),
        (&["--table", "no.json"], 1, "no.json cannot be read"),
        (&["--update-docs", "bad.json"], 1, "bad.json is not a benchmark record: missing field"),
        (&["--device", "gpu"], 2, "invalid value 'gpu'"),
        (&["--precisions", "f16"], 2, "`f16` is not a precision: choose from f32, tf32, bf16"),
        (&["--precisions", "f32"], 1, "--precisions is for a GPU: add --device cuda"),
        (
            &["--device", "cuda", "--only", "burn"],
            1,
            "burn cannot be timed on --device cuda: choose from pointwise",
        ),
        (
            &["--device", "cuda", "--table"],
            1,
            "there is no such record in data/benchmarks: `cargo xtask bench --device cuda`",
        ),
        (&["--trainer", "no"], 1, "no is not a file: give the path of a built trainer"),
        (
            &["--trainer", FAKE, "--python", FAKE],
            1,
            "lacks torch: install it there with `pip install torch numpy`",
        ),
    ];
    for (options, expected, says) in cases {
        let (code, _, stderr) = bench(folder.path(), options);
        assert_eq!(code, expected, "{options:?}: {stderr}");
        assert!(stderr.contains(says), "{options:?}: {stderr}");
    }
}
