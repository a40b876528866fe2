//! The convolutional network of candle's example `mnist-training`, in its original form and with the layers of this crate: how long a step takes, and
//! what is learned.
//!
//! ```text
//! cargo run --release -p pointwise-candle --example mnist -- --mnist FOLDER
//! ```
//!
//! Each line of the output is one training, as JSON. All trainings of a repetition begin with the same initial values and see the same batches.
//! Without a folder the images are synthetic.

use candle_core::{D, DType, Device, Module, ModuleT, Result, Tensor, Var, bail};
use candle_nn::{Conv2dConfig, Linear, Optimizer, VarBuilder, VarMap, linear, loss, ops};
use clap::{Parser, ValueEnum};
use pointwise_data::{Dataset, Images, NoProgress, Place, Published, Source, load};
use pointwise_random::{Purpose, permutation};
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

const SIDE: usize = 28;
const CLASSES: usize = 10;

/// As in candle's example.
const BATCH: usize = 64;

/// Steps that are not timed: the first ones build plans and allocate memory.
const WARM_UP: usize = 5;

#[derive(Debug, Parser)]
struct Args {
    /// Folder with MNIST's four files.
    #[arg(long, conflicts_with = "cifar10")]
    mnist: Option<PathBuf>,

    /// Folder with CIFAR-10's binary files, of whose images the middle 28x28 pixels are used, in grey.
    #[arg(long)]
    cifar10: Option<PathBuf>,

    /// Number of training images, or all if there are fewer.
    #[arg(long, default_value_t = 640)]
    images: usize,

    /// Passes over the training images.
    #[arg(long, default_value_t = 1)]
    epochs: u32,

    /// Number of repetitions of all trainings, each from other initial values.
    #[arg(long, default_value_t = 1)]
    repetitions: u64,

    /// Which layers to use.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "candle,right-pool,pointwise")]
    layers: Vec<Layers>,

    /// Which optimizer: the example's AdamW with a learning rate of 0.001, or plain gradient descent with that of `--sgd-rate`.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "adam-w,sgd")]
    optimizers: Vec<OptimizerName>,

    /// Learning rate of gradient descent. With right gradients 0.05 is too large: about every second training diverges.
    #[arg(long, default_value_t = 0.001)]
    sgd_rate: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Layers {
    /// Everything from candle.
    Candle,
    /// Everything from candle except the maximum pools.
    RightPool,
    /// Everything from this crate.
    Pointwise,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum OptimizerName {
    AdamW,
    Sgd,
}

struct ConvNet {
    conv1: Box<dyn Module>,
    conv2: Box<dyn Module>,
    pool: Box<dyn Module>,
    fc1: Linear,
    fc2: Linear,
    dropout: Box<dyn ModuleT>,
}

impl ConvNet {
    fn new(layers: Layers, vb: VarBuilder<'_>) -> Result<Self> {
        let config = Conv2dConfig::default();
        let conv = |inputs: usize, outputs: usize, name: &str| -> Result<Box<dyn Module>> {
            match layers {
                Layers::Pointwise => {
                    Ok(Box::new(pointwise_candle::conv2d(inputs, outputs, 5, config, vb.pp(name))?))
                }
                _ => Ok(Box::new(candle_nn::conv2d(inputs, outputs, 5, config, vb.pp(name))?)),
            }
        };
        Ok(Self {
            conv1: conv(1, 32, "c1")?,
            conv2: conv(32, 64, "c2")?,
            pool: match layers {
                Layers::Candle => Box::new(|x: &Tensor| x.max_pool2d(2)),
                _ => Box::new(pointwise_candle::MaxPool2d::new(2)),
            },
            fc1: linear(1024, 1024, vb.pp("fc1"))?,
            fc2: linear(1024, CLASSES, vb.pp("fc2"))?,
            dropout: match layers {
                Layers::Pointwise => Box::new(pointwise_candle::Dropout::new(0.5)),
                _ => Box::new(candle_nn::Dropout::new(0.5)),
            },
        })
    }

    /// `(N, 784)` images to `(N, 10)` logits.
    fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let y = self.conv1.forward(&images.reshape(((), 1, SIDE, SIDE))?)?;
        let y = self.conv2.forward(&self.pool.forward(&y)?)?;
        let y = self.pool.forward(&y)?.flatten_from(1)?.apply(&self.fc1)?.relu()?;
        self.dropout.forward_t(&y, train)?.apply(&self.fc2)
    }
}

/// Images `(N, 784)` from 0 to 1, and labels.
struct Set {
    images: Tensor,
    labels: Tensor,
}

impl Set {
    /// The middle of each image, in grey by Rec. 709.
    fn new(images: &Images) -> Result<Self> {
        let [channels, height, width] = images.shape();
        let (top, left) = ((height - SIDE) / 2, (width - SIDE) / 2);
        let weights: &[f32] = if channels == 1 { &[1.0] } else { &[0.2126, 0.7152, 0.0722] };
        let mut values = Vec::with_capacity(images.len() * SIDE * SIDE);
        for image in 0..images.len() {
            let pixels = images.image(image);
            for place in 0..SIDE * SIDE {
                let at = (top + place / SIDE) * width + left + place % SIDE;
                let channel = |(channel, weight): (usize, &f32)| {
                    weight * f32::from(pixels[channel * height * width + at])
                };
                values.push(weights.iter().enumerate().map(channel).sum::<f32>() / 255.0);
            }
        }
        let labels: Vec<u32> = images.labels().iter().map(|label| u32::from(*label)).collect();
        Ok(Self {
            images: Tensor::from_vec(values, (images.len(), SIDE * SIDE), &Device::Cpu)?,
            labels: Tensor::new(labels, &Device::Cpu)?,
        })
    }

    fn len(&self) -> usize {
        self.labels.elem_count()
    }

    fn batch(&self, first: usize, len: usize) -> Result<(Tensor, Tensor)> {
        Ok((self.images.narrow(0, first, len)?, self.labels.narrow(0, first, len)?))
    }
}

/// An optimizer chosen at run time.
enum AnyOptimizer {
    CandleAdamW(candle_nn::AdamW),
    CandleSgd(candle_nn::SGD),
    AdamW(pointwise_candle::AdamW),
    Sgd(pointwise_candle::Sgd),
}

impl AnyOptimizer {
    fn new(layers: Layers, name: OptimizerName, sgd_rate: f64, vars: Vec<Var>) -> Result<Self> {
        let params = pointwise_candle::ParamsSgd { lr: sgd_rate, ..Default::default() };
        Ok(match (layers, name) {
            (Layers::Pointwise, OptimizerName::AdamW) => {
                Self::AdamW(pointwise_candle::AdamW::new_lr(vars, 0.001)?)
            }
            (Layers::Pointwise, OptimizerName::Sgd) => Self::Sgd(pointwise_candle::Sgd::new(vars, params)?),
            (_, OptimizerName::AdamW) => Self::CandleAdamW(candle_nn::AdamW::new_lr(vars, 0.001)?),
            (_, OptimizerName::Sgd) => Self::CandleSgd(candle_nn::SGD::new(vars, sgd_rate)?),
        })
    }

    fn backward_step(&mut self, loss: &Tensor) -> Result<()> {
        match self {
            Self::CandleAdamW(optimizer) => optimizer.backward_step(loss),
            Self::CandleSgd(optimizer) => optimizer.backward_step(loss),
            Self::AdamW(optimizer) => optimizer.backward_step(loss),
            Self::Sgd(optimizer) => optimizer.backward_step(loss),
        }
    }
}

/// Initial values by name, as candle draws them.
fn initial_values() -> Result<HashMap<String, Tensor>> {
    let variables = VarMap::new();
    ConvNet::new(Layers::Candle, VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    let data = variables.data().lock().map_err(|error| candle_core::Error::msg(error.to_string()))?;
    data.iter().map(|(name, var)| Ok((name.clone(), var.copy()?.detach()))).collect()
}

fn accuracy(net: &ConvNet, set: &Set) -> Result<f64> {
    const IMAGES: usize = 500;
    let mut correct = 0.0;
    for first in (0..set.len()).step_by(IMAGES) {
        let (images, labels) = set.batch(first, IMAGES.min(set.len() - first))?;
        let hits = net.forward(&images, false)?.argmax(D::Minus1)?.eq(&labels)?;
        correct += f64::from(hits.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(correct / set.len() as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Trains, and reports the result.
fn train(
    args: &Args,
    layers: Layers,
    name: OptimizerName,
    repetition: u64,
    initial: &HashMap<String, Tensor>,
    [training, test]: [&Set; 2],
) -> Result<serde_json::Value> {
    let mut variables = VarMap::new();
    let net = ConvNet::new(layers, VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
    variables.set(initial.iter())?;
    let mut optimizer = AnyOptimizer::new(layers, name, args.sgd_rate, variables.all_vars())?;
    let batches = (training.len() / BATCH) as u32;
    let (mut seconds, mut last) = (Vec::new(), 0.0);
    for epoch in 0..args.epochs {
        let mut sum = 0.0;
        for batch in permutation(repetition, Purpose::Shuffle, epoch, batches) {
            let (images, labels) = training.batch(batch as usize * BATCH, BATCH)?;
            let start = Instant::now();
            let logits = net.forward(&images, true)?;
            let loss = loss::nll(&ops::log_softmax(&logits, D::Minus1)?, &labels)?;
            optimizer.backward_step(&loss)?;
            seconds.push(start.elapsed().as_secs_f64());
            sum += f64::from(loss.to_scalar::<f32>()?);
        }
        last = sum / f64::from(batches);
        if !last.is_finite() {
            bail!("the loss of {layers:?} with {name:?} is {last} in epoch {epoch}")
        }
    }
    let steps = seconds.len();
    Ok(json!({
        "layers": layers.to_possible_value().map(|value| value.get_name().to_owned()),
        "optimizer": name.to_possible_value().map(|value| value.get_name().to_owned()),
        "repetition": repetition,
        "steps": steps,
        "ms_per_step": 1e3 * median(seconds.split_off(WARM_UP.min(steps))),
        "loss_of_last_epoch": last,
        "test_accuracy": accuracy(&net, test)?,
    }))
}

fn dataset(args: &Args) -> std::result::Result<Dataset, pointwise_data::Error> {
    let published =
        |dataset, folder: &PathBuf| Source::Published { dataset, place: Place::Named(folder.clone()) };
    let source = match (&args.mnist, &args.cifar10) {
        (Some(folder), _) => published(Published::Mnist, folder),
        (None, Some(folder)) => published(Published::Cifar10, folder),
        (None, None) => {
            let shape = [1, SIDE, SIDE];
            Source::Synthetic { seed: 1, train: args.images, test: 500, classes: CLASSES, shape }
        }
    };
    load(&source, &NoProgress)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let Dataset { train: training, test, source, .. } = dataset(&args)?;
    let kept = args.images.min(training.len());
    if kept < BATCH {
        return Err(
            format!("{kept} training images are fewer than a batch of {BATCH}: give more --images").into()
        );
    }
    let (training, test) = (Set::new(&training.truncated(kept))?, Set::new(&test)?);
    println!(
        "{}",
        json!({
            "command": std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            "version": env!("CARGO_PKG_VERSION"),
            "data": source,
            "training_images": training.len(),
            "test_images": test.len(),
            "epochs": args.epochs,
            "sgd_rate": args.sgd_rate,
            "threads": std::thread::available_parallelism()?.get(),
        })
    );
    for repetition in 0..args.repetitions {
        let initial = initial_values()?;
        for name in &args.optimizers {
            for layers in &args.layers {
                println!("{}", train(&args, *layers, *name, repetition, &initial, [&training, &test])?);
            }
        }
    }
    Ok(())
}
