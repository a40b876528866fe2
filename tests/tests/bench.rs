//! `trainer bench` prints what `cargo xtask bench` reads.

use pointwise_tests::{fail, succeed};
use serde_json::Value;

#[test]
fn a_line_of_json_has_every_timed_step() {
    for (phase, engine) in [("train", "cpu"), ("eval", "cpu"), ("train", "reference")] {
        let line = succeed([
            "bench",
            "--model",
            "nin",
            "--phase",
            phase,
            "--engine",
            engine,
            "--device",
            "cpu",
            "--batch",
            "2",
            "--warmup",
            "1",
            "--steps",
            "2",
            "--threads",
            "1",
            "--json",
        ]);
        assert_eq!(line.lines().count(), 1, "{line}");
        let row: Value = serde_json::from_str(&line).expect("JSON");
        for (key, value) in [("contender", "pointwise"), ("model", "nin"), ("phase", phase)] {
            assert_eq!(row[key], value, "{line}");
        }
        for (key, value) in [("batch", 2), ("threads", 1), ("warmup", 1)] {
            assert_eq!(row[key], value, "{line}");
        }
        let seconds = row["seconds"].as_array().expect("seconds");
        assert!(seconds.len() == 2 && seconds.iter().all(|step| step.as_f64() > Some(0.0)), "{line}");
        assert_eq!(row["parameters"], 1_485_386, "{line}");
        assert!(row["macs_per_image"].as_u64() > Some(1_000_000), "{line}");
        // The parts of a step cannot take longer than the steps: both are sums of the same clock.
        if let Some(layers) = row["layers"].as_array() {
            let part = |layer: &Value, key: &str| layer[key].as_f64().unwrap_or(0.0);
            let parts: f64 = layers
                .iter()
                .map(|layer| part(layer, "forward_seconds") + part(layer, "backward_seconds"))
                .sum();
            let steps: f64 = seconds.iter().filter_map(Value::as_f64).sum::<f64>() / 2.0;
            assert!(parts > 0.0 && parts <= 1.001 * steps, "{parts} of {steps}: {line}");
        }
    }
}

#[test]
fn what_cannot_be_timed_is_refused() {
    let message = fail(1, ["bench", "--model", "nin", "--engine", "cuda", "--device", "cpu"]);
    assert!(message.contains("cuda"), "{message}");
}
