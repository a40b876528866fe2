//! Memory does not grow: over thousands of steps, and over many engines one after another. A separate program, whose resident set no other
//! test changes.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::{Batch, Engine, EngineKind, Settings, create};
use pointwise_network::Network;
use pointwise_recipe::Recipe;

/// Bytes that are resident.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn steps(engine: &mut dyn Engine, number: u32) {
    let images: Vec<f32> = (0..4 * 192).map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0).collect();
    for _ in 0..number {
        engine.train_step(Batch { images: &images, labels: &[0, 1, 2, 3] }).unwrap();
        // As the loop does where it records a step.
        engine.totals().unwrap();
    }
    engine.evaluate(Batch { images: &images, labels: &[0, 1, 2, 3] }).unwrap();
    engine.state().unwrap();
}

/// Bytes: several times what the allocator was seen to take on its own.
const MOST: u64 = 1 << 20;

const ROUNDS: usize = 30;

/// Does the work `ROUNDS` times. The allocator may take a few more pages now and then, which no limit can distinguish from a small leak;
/// but work that leaks memory does so in every round. What leaks only now and then is limited to [`MOST`] in total.
fn stays(what: &str, mut work: impl FnMut()) {
    let sizes: Vec<u64> = std::iter::once(resident())
        .chain((0..ROUNDS).map(|_| {
            work();
            resident()
        }))
        .collect();
    println!("{what}, {ROUNDS} times: {sizes:?} bytes");
    assert!(sizes[ROUNDS] <= sizes[0] + MOST, "{what}, {ROUNDS} times: {sizes:?} bytes");
    assert!(sizes.windows(2).any(|pair| pair[1] <= pair[0]), "{what}, {ROUNDS} times: {sizes:?} bytes");
}

#[test]
fn neither_steps_nor_engines_leave_memory_behind() {
    let network = Network::from_toml(
        "name = \"small\"\ninput = [3, 8, 8]\nlayers = [{ Conv2d = { out_channels = 16, kernel_size = 3 } }, \"BatchNorm2d\", \"ReLU\", \
         { MaxPool2d = { kernel_size = 2 } }, \"Flatten\", \"Dropout\", { Linear = { out_features = 4 } }]",
    )
    .unwrap();
    let recipe = "epochs = 1\nbatch-size = 4\noptimizer = \"AdamW\"\nema = { decay = 0.9 }\nclip-norm = 1.0";
    let settings = Settings::new(Recipe::from_toml(recipe).unwrap());
    for (kind, number, engines) in [(EngineKind::Cpu, 400, 10), (EngineKind::Reference, 80, 2)] {
        let mut engine = create(kind, &network, &settings).unwrap();
        steps(engine.as_mut(), 100);
        stays(&format!("{kind}, {number} steps"), || steps(engine.as_mut(), number));
        drop(engine);
        let one = || steps(create(kind, &network, &settings).unwrap().as_mut(), 2);
        stays(&format!("{kind}, {engines} engines"), || (0..engines).for_each(|_| one()));
    }
}
