//! Trains a network from your own description on the CPU engine: no tensors, no graph, a few lines.
//!
//! ```text
//! cargo run --release -p pointwise-engine --example own_network
//! ```
//!
//! The task is synthetic: find the brightest quarter of a small noisy image.

use pointwise_engine::{Batch, Engine, Settings, Totals, cpu::Cpu};
use pointwise_network::Network;
use pointwise_recipe::{Adam, Recipe};

const SIDE: usize = 12;
const IMAGES: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any description: the engine groups its layers into fused blocks and picks a method for each convolution.
    let network = Network::from_toml(
        r#"
        name = "brightest quarter"
        input = [1, 12, 12]
        layers = [
            { Conv2d = { out_channels = 24, kernel_size = 3, padding = 1 } }, "BatchNorm2d", "ReLU",
            { MaxPool2d = { kernel_size = 2 } },
            { Conv2d = { out_channels = 32, kernel_size = 3, padding = 1 } }, "BatchNorm2d", "ReLU",
            "Flatten",
            { Linear = { out_features = 4 } },
        ]
        "#,
    )?;

    let recipe = Recipe::new(5, IMAGES as u32, Adam::default());
    let mut engine = Cpu::new(&network, &Settings::new(recipe))?;
    println!("{} parameters, {} on this machine", network.graph()?.parameter_count(), engine.isa());
    for epoch in 0..5 {
        engine.set_totals(Totals::default())?;
        for step in 0..10 {
            let (images, labels) = quarters(epoch * 10 + step);
            engine.train_step(Batch { images: &images, labels: &labels })?;
        }
        let totals = engine.totals()?;
        println!("epoch {epoch}: loss {:.3}, accuracy {:.2}", totals.loss(), totals.accuracy());
    }

    // Images that it has not seen.
    let (images, labels) = quarters(1000);
    engine.set_totals(Totals::default())?;
    engine.evaluate(Batch { images: &images, labels: &labels })?;
    let accuracy = engine.totals()?.accuracy();
    println!("test accuracy {accuracy:.2}");
    if accuracy < 0.9 {
        return Err("it has not learned".into());
    }
    Ok(())
}

/// Noisy images with one brighter quarter, and which one it is.
fn quarters(batch: usize) -> (Vec<f32>, Vec<u16>) {
    let noise = |i: usize| ((i as f32 * 78.233 + batch as f32 * 12.9898).sin() * 43758.547).fract();
    let labels: Vec<u16> = (0..IMAGES).map(|image| ((image * 7 + batch) % 4) as u16).collect();
    let pixel = |at: usize| {
        let (image, row, column) = (at / (SIDE * SIDE), at / SIDE % SIDE, at % SIDE);
        let quarter = 2 * (row / (SIDE / 2)) + column / (SIDE / 2);
        noise(at) + if usize::from(labels[image]) == quarter { 0.5 } else { 0.0 }
    };
    ((0..IMAGES * SIDE * SIDE).map(pixel).collect(), labels)
}
