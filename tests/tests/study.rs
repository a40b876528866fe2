//! `cargo xtask` and the trainer agree on what can be asked for: what the trainer refuses is refused before it is built.

use pointwise_engine::{EngineKind, Precision};
use pointwise_tests::{binary, clean, fail};
use std::process::Command;

/// The exit code of a study whose trainer is not there: 2 is a refusal of the option, 1 comes after it.
fn study(option: &str, value: &str) -> Option<i32> {
    let temp = tempfile::tempdir().expect("a folder can be made");
    let arguments = ["reproduce", "--quick", "--trainer", "no/such", option, value];
    let output = clean(Command::new(binary("xtask")), arguments)
        .current_dir(temp.path())
        .output()
        .expect("the program can be started");
    output.status.code()
}

#[test]
fn the_study_takes_what_the_trainer_takes() {
    let engines = EngineKind::ALL.map(EngineKind::name);
    let precisions = Precision::ALL.map(Precision::name);
    for (option, values) in [("--engine", engines), ("--precision", precisions)] {
        for value in values {
            assert_eq!(study(option, value), Some(1), "{option} {value}");
        }
    }
    for (option, good, bad) in [
        ("--seed", "9223372036854775807", "9223372036854775808"),
        ("--epochs", "1000000", "1000001"),
        ("--threads", "1024", "1025"),
        ("--engine", "cpu", "torch"),
        ("--precision", "f32", "f16"),
        ("--device", "cuda:0", "cuda:x"),
        ("--device", "auto", "gpu"),
    ] {
        let asked = if option == "--seed" { "--seeds" } else { option };
        assert_eq!(study(asked, good), Some(1), "{asked} {good}");
        assert_eq!(study(asked, bad), Some(2), "{asked} {bad}");
        fail(2, ["train", "--model", "nin", option, bad]);
    }
}
