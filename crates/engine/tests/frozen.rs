//! The bits of the engine `cpu` stay what they are: a seed gives the same trained network with every version of the program.
//!
//! On x86-64 only: on 64-bit Arm the portable kernels fuse products and sums. The loss and Adam's corrections take `exp`, `ln` and `pow` in
//! `f64` from the C library: one that rounds them differently also changes these bits.
#![cfg(target_arch = "x86_64")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::cpu::Cpu;
use pointwise_engine::{Array, Batch, Engine, Settings, State, Totals};
use pointwise_kernels::Isa;
use pointwise_network::Network;
use pointwise_random::{Purpose, below, block, unit_f32};
use pointwise_study::Study;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The batch of the published study.
const BATCH: usize = 126;

/// The SHA-256 of the results of some steps on [`BATCH`] drawn images and an evaluation.
struct Frozen {
    network: &'static str,
    /// Two steps, with AVX-512 and with AVX2: they round alike.
    fused: &'static str,
    /// One step, with any processor's instructions; it is slow, so a network whose layers the others cover is left out.
    portable: Option<&'static str>,
}

const FROZEN: [Frozen; 3] = [
    Frozen {
        network: "alexnet_plain",
        fused: "86831108a8a975d825896a5f5de405c4567c28b0c7624005cbd1df549c83edef",
        portable: Some("f3a2371acb7cbada020ef9294413c31a301da44366f58239773dc31234847dc5"),
    },
    Frozen {
        network: "alexnet",
        fused: "b5a6225f279452151e6fc4784036835ca986187c6ed644d7fa71d12590d49da3",
        portable: None,
    },
    Frozen {
        network: "nin",
        fused: "d21506e696a7e2c3df2da45f67d0de38c1f3b5d69582559f3b1c79e6f3c10bf8",
        portable: Some("fb84bf7fed092e0fe46bf95b75116839b0edf84ec08c4415fdf81d0a6ccde4a9"),
    },
];

fn study() -> Study {
    Study::by_name("pointwise").unwrap()
}

/// Normalised images and labels; every value is a function of its place.
fn drawn(network: &Network) -> (Vec<f32>, Vec<u16>) {
    let word = |place: usize| block(126, Purpose::Synthetic, 0, place as u64)[0];
    let values = BATCH * network.input.iter().product::<usize>();
    let images = (0..values).map(|place| (unit_f32(word(place)) - 0.5) * 3.5).collect();
    let labels = (0..BATCH).map(|image| below(word(values + image), 10) as u16).collect();
    (images, labels)
}

fn arrays(digest: &mut Sha256, arrays: &BTreeMap<String, Array>) {
    for (name, array) in arrays {
        digest.update(name);
        digest.update(format!("{:?}", array.shape));
        floats(digest, &array.values);
    }
}

fn floats(digest: &mut Sha256, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    digest.update(bytes);
}

fn totals(digest: &mut Sha256, totals: Totals) {
    digest.update(totals.loss_sum.to_le_bytes());
    digest.update(totals.correct.to_le_bytes());
}

/// Trains and evaluates; returns the digest of all results.
fn trained(network: &Network, isa: Isa, steps: usize) -> String {
    let (images, labels) = drawn(network);
    let batch = Batch { images: &images, labels: &labels };
    let mut engine = Cpu::with_isa(network, &Settings::new(study().recipe), isa).unwrap();
    let mut digest = Sha256::new();
    for _ in 0..steps {
        engine.train_step(batch).unwrap();
    }
    totals(&mut digest, engine.totals().unwrap());
    let State { parameters, statistics, optimizer, .. } = engine.state().unwrap();
    let buffers = optimizer.unwrap().buffers;
    for values in [&parameters, &statistics, &buffers["exp_avg"], &buffers["exp_avg_sq"]] {
        arrays(&mut digest, values);
    }
    engine.set_totals(Totals::default()).unwrap();
    engine.evaluate(batch).unwrap();
    totals(&mut digest, engine.totals().unwrap());
    floats(&mut digest, &engine.logits(&images).unwrap());
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bits_of_the_published_networks_stay_what_they_are() {
    assert_eq!(study().recipe.batch_size as usize, BATCH);
    let mut moved = Vec::new();
    for Frozen { network, fused, portable } in FROZEN {
        let description = Network::by_name(network).unwrap();
        for isa in Isa::available() {
            let (steps, expected) = match isa == Isa::portable() {
                true => (1, portable),
                false => (2, Some(fused)),
            };
            let Some(expected) = expected else { continue };
            let got = trained(&description, isa, steps);
            if got != expected {
                moved.push(format!("{network} on {isa}: {got}, not {expected}"));
            }
        }
    }
    assert!(moved.is_empty(), "the results of training have changed:\n{}", moved.join("\n"));
}
