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

/// A measurement by stand-ins, with a record in `out.json`.
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
    let calls: Vec<&str> = calls.lines().filter(|call| call.contains("--json")).collect();
    assert_eq!(calls.len(), 9, "one process each time");
    assert_eq!(
        calls[0],
        "bench --engine cpu --device cpu --json --model nin --phase train --batch 126 --threads 3 --warmup 2 --steps 2"
    );
    assert!(calls[1].contains("torch_peer.py --memory-format contiguous --json"), "{}", calls[1]);
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
fn what_is_wrong_is_said_in_a_sentence() {
    let folder = folder();
    fs::write(folder.path().join("no-torch"), "").expect("a file");
    fs::write(folder.path().join("bad.json"), "{}").expect("a file");
    let cases: [(&[&str], i32, &str); 12] = [
        (&["--only", "jax"], 2, "`jax` is not a contender: choose from pointwise, pytorch"),
        (&["--only", "burn,burn"], 2, "burn is given twice"),
        (&["--rounds", "0"], 2, "0 is not in 1"),
        (&["--steps", "0"], 2, "0 is not in 1"),
        (&["--threads", "0"], 2, "0 is not in 1"),
        (&["--models", "vgg"], 2, "`vgg` is not a network of the study"),
        (&["--phases", "test"], 2, "`test` is not a phase: choose from train, eval"),
        (&["--build-peers", "--table"], 2, "cannot be used with"),
        (&["--table", "no.json"], 1, "no.json cannot be read"),
        (&["--update-readme", "bad.json"], 1, "bad.json is not a record of a benchmark: missing field"),
        (&["--trainer", "no"], 1, "no is not a file: give the path of a built trainer"),
        (
            &["--trainer", FAKE, "--python", FAKE],
            1,
            "has no PyTorch: install it there with `pip install torch numpy`",
        ),
    ];
    for (options, expected, says) in cases {
        let (code, _, stderr) = bench(folder.path(), options);
        assert_eq!(code, expected, "{options:?}: {stderr}");
        assert!(stderr.contains(says), "{options:?}: {stderr}");
    }
}
