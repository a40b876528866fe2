//! A made-up record.

use super::{
    contender::PEER_FLAGS,
    question::{Contender, Phase, Precision},
    record::{Card, Entered, Entry, Floor, Lacking, LayerTime, NetworkTime, Record, Row, Skipped, StudyTime},
};

/// Three rounds of ours and PyTorch's training, one of evaluation.
pub(crate) fn record() -> Record {
    let row = |contender, phase, seconds: &[f64]| Row {
        contender,
        version: Some("1.2.3".into()),
        model: "alexnet".into(),
        phase,
        precision: None,
        batch: 126,
        threads: 2,
        seconds: seconds.into(),
        group: None,
        peak_memory_bytes: None,
        detail: "a detail".into(),
        parameters: Some(2_256_458),
        macs_per_image: None,
        peak_gflops: None,
        bandwidth_gb: None,
        floor: None,
        layers: None,
    };
    let ours = |phase, seconds: &[f64], memory: u64| Row {
        peak_memory_bytes: Some(memory << 20),
        macs_per_image: Some(1_000_000_000),
        peak_gflops: Some(5040.0),
        ..row(Contender::Pointwise, phase, seconds)
    };
    let timed = |seconds: &[f64], memory, forward: f64| Row {
        layers: Some(vec![
            LayerTime {
                path: "features.0".into(),
                method: Some("patches".into()),
                forward_seconds: forward,
                backward_seconds: Some(2.0 * forward),
                gflop: Some(12.0),
            },
            LayerTime {
                path: "features.2".into(),
                method: None,
                forward_seconds: 0.001,
                backward_seconds: None,
                gflop: None,
            },
        ]),
        ..ours(Phase::Train, seconds, memory)
    };
    let entry = |round, place, row| Entry { round, place, row };
    let entered = |contender, warmup, steps| Entered {
        contender,
        version: Some("1.2.3".into()),
        detail: "a detail".into(),
        warmup,
        steps,
    };
    Record {
        command: "cargo xtask bench --threads 2 --rounds 3 --steps 3".into(),
        commit: Some("0123456789abcdef".into()),
        dirty: false,
        started: "2026-01-31T12:00:00Z".into(),
        processor: "Some CPU".into(),
        card: None,
        os: "linux x86_64".into(),
        cores: 2,
        threads: 2,
        batch: 126,
        rounds: 3,
        unfinished: false,
        rustc: Some("rustc 1.95.0".into()),
        peer_flags: PEER_FLAGS.into(),
        contenders: vec![entered(Contender::Pointwise, 2, 3), entered(Contender::Pytorch, 2, 1)],
        skipped: vec![Skipped { contender: Contender::Burn, reason: "it is not built".into() }],
        lacking: vec![Lacking {
            contender: Contender::Candle,
            model: "alexnet".into(),
            reason: "it has no pools".into(),
        }],
        failures: Vec::new(),
        rows: vec![
            entry(1, 1, timed(&[0.1, 0.2, 7.0], 180, 0.01)),
            entry(1, 2, row(Contender::Pytorch, Phase::Train, &[1.0])),
            entry(1, 1, ours(Phase::Eval, &[0.1], 90)),
            entry(1, 2, row(Contender::Pytorch, Phase::Eval, &[0.25])),
            entry(2, 2, timed(&[0.4, 0.4, 0.4], 200, 0.03)),
            entry(2, 1, row(Contender::Pytorch, Phase::Train, &[1.2])),
            entry(3, 1, timed(&[0.3, 0.3, 0.3], 190, 0.02)),
            entry(3, 2, row(Contender::Pytorch, Phase::Train, &[1.2])),
        ],
        studies: Vec::new(),
    }
}

/// Two rounds of training on a GPU in two precisions, in the second of which PyTorch's graph failed, and two studies.
pub(crate) fn gpu_record() -> Record {
    let row = |contender, precision, milliseconds: f64| Row {
        contender,
        version: Some("1.2.3".into()),
        model: "alexnet".into(),
        phase: Phase::Train,
        precision,
        batch: 126,
        threads: 2,
        seconds: vec![milliseconds / 1e3],
        group: Some(50),
        peak_memory_bytes: None,
        detail: "a detail".into(),
        parameters: Some(2_256_458),
        macs_per_image: None,
        peak_gflops: None,
        bandwidth_gb: None,
        floor: None,
        layers: None,
    };
    let ours = |precision, milliseconds, tflops: f64, gbytes| Row {
        peak_gflops: Some(1e3 * tflops),
        bandwidth_gb: Some(3000.0),
        floor: Some(Floor { gflop: 300.0, gbytes, seconds: gbytes / 2000.0 }),
        ..row(Contender::Pointwise, Some(precision), milliseconds)
    };
    let (graph, notebook) = (Contender::PytorchGraph, Contender::PytorchNotebook);
    let entry = |round, place, row| Entry { round, place, row };
    let plain = record();
    let entered = |contender| Entered { contender, ..plain.contenders[0].clone() };
    let study = |round, seconds, first| StudyTime {
        round,
        precision: Precision::F32,
        epochs: 10,
        synthetic: false,
        networks: vec![
            NetworkTime { model: "alexnet".into(), seconds: first },
            NetworkTime { model: "nin".into(), seconds: seconds - first },
        ],
        seconds,
    };
    Record {
        started: "2026-02-28T12:00:00Z".into(),
        card: Some(Card { name: "Some GPU 80GB".into(), driver: Some("580.1".into()) }),
        rounds: 2,
        contenders: [Contender::Pointwise, graph, notebook].map(entered).into(),
        skipped: Vec::new(),
        lacking: Vec::new(),
        rows: vec![
            entry(1, 1, ours(Precision::F32, 1.0, 60.0, 1.0)),
            entry(1, 2, row(graph, Some(Precision::F32), 2.2)),
            entry(1, 3, row(notebook, None, 11.0)),
            entry(1, 4, ours(Precision::Bf16, 0.5, 800.0, 0.5)),
            entry(2, 4, ours(Precision::F32, 1.2, 60.0, 1.0)),
            entry(2, 1, row(graph, Some(Precision::F32), 2.4)),
            entry(2, 2, row(notebook, None, 12.0)),
            entry(2, 3, ours(Precision::Bf16, 0.5, 800.0, 0.5)),
        ],
        studies: vec![study(1, 13.0, 5.0), study(2, 11.0, 5.0)],
        ..plain
    }
}
