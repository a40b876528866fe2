//! Memory does not grow: over thousands of steps, and over many engines one after another. A program of its own, whose resident set no
//! other test changes.
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

#[test]
fn neither_steps_nor_engines_leave_memory_behind() {
    let network = Network::from_toml(
        "name = \"small\"\ninput = [3, 8, 8]\nlayers = [{ Conv2d = { out_channels = 16, kernel_size = 3 } }, \"BatchNorm2d\", \"ReLU\", \
         { MaxPool2d = { kernel_size = 2 } }, \"Flatten\", \"Dropout\", { Linear = { out_features = 4 } }]",
    )
    .unwrap();
    let recipe = "epochs = 1\nbatch-size = 4\noptimizer = \"AdamW\"\nema = { decay = 0.9 }\nclip-norm = 1.0";
    let settings = Settings::new(Recipe::from_toml(recipe).unwrap());
    let mut figures = Vec::new();
    for (kind, number, engines) in [(EngineKind::Cpu, 2_000, 50), (EngineKind::Reference, 400, 10)] {
        let mut engine = create(kind, &network, &settings).unwrap();
        steps(engine.as_mut(), 100);
        let warm = resident();
        steps(engine.as_mut(), number);
        figures.push((kind, "steps", number, warm, resident()));
        drop(engine);
        let one = || steps(create(kind, &network, &settings).unwrap().as_mut(), 2);
        (0..5).for_each(|_| one());
        let warm = resident();
        (0..engines).for_each(|_| one());
        figures.push((kind, "engines", engines, warm, resident()));
    }
    for (kind, what, number, warm, after) in figures {
        println!("{kind}, {number} {what}: {warm} bytes, then {after}");
        assert!(after <= warm + warm / 100, "{kind}, {number} {what}: {warm} bytes grew to {after}");
    }
}
