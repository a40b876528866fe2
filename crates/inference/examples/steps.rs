//! How long each part of a network takes in inference, with initial weights:
//! `cargo run --release -p pointwise-inference --example steps -- NETWORK [IMAGES [THREADS]]`.

use pointwise_inference::{Images, Model, Options};
use pointwise_network::Network;
use pointwise_weights::State;
use std::error::Error;
use std::time::Instant;

/// Seconds to measure.
const SECONDS: f64 = 0.5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "nin".to_owned());
    let batch = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let threads = arguments.next().map_or(Ok(2), |text| text.parse())?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let network = Network::by_name(&name)?;
    let state = State::initial(&network.graph()?, 0);
    let start = Instant::now();
    let mut model = Model::new(&network, &state, &Options { batch, ..Options::default() })?;
    let compiled = start.elapsed().as_secs_f64();
    let images: Vec<f32> = (0..batch * network.input.iter().product::<usize>())
        .map(|at| (at % 97) as f32 / 48.0 - 1.0)
        .collect();
    model.logits(Images::Normalised(&images))?;
    model.take_times();
    let mut seconds = Vec::new();
    while seconds.iter().sum::<f64>() < SECONDS || seconds.len() < 3 {
        let start = Instant::now();
        model.logits(Images::Normalised(&images))?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    for step in model.take_times() {
        let milliseconds = 1e3 * step.seconds / seconds.len() as f64;
        println!("{milliseconds:>9.3} ms  {:<34} {}", step.method, step.name);
    }
    seconds.sort_by(f64::total_cmp);
    let median = 1e3 * seconds[seconds.len() / 2];
    println!(
        "{name}, {batch} images, {threads} threads: {median:.3} ms, compiled in {:.0} ms",
        1e3 * compiled
    );
    Ok(())
}
