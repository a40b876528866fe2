//! The same bits for every number of threads, and layers that several threads use at once.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use crate::common::{host, in_type, values};
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Conv2dConfig, Optimizer, VarMap};
use pointwise_candle::{AdamW, AvgPool2d, BatchNorm, Conv2d, Dropout, MaxPool2d, ParamsAdamW};
use rayon::prelude::*;

struct Net {
    first: Conv2d,
    second: Conv2d,
    norm: BatchNorm,
    dropout: Dropout,
    variables: VarMap,
}

impl Net {
    fn new() -> Result<Self> {
        let variables = VarMap::new();
        let var = |name: &str, shape: &[usize]| {
            let var = in_type(&values(name, shape), DType::F32);
            variables.data().lock().unwrap().insert(name.to_owned(), var.clone());
            var.as_tensor().clone()
        };
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let ones = Tensor::ones(20, DType::F32, &Device::Cpu)?;
        Ok(Self {
            first: Conv2d::new(var("first", &[20, 3, 3, 3]), Some(var("bias", &[20])), config),
            second: Conv2d::new(var("second", &[9, 20, 3, 3]), None, Conv2dConfig { dilation: 2, ..config }),
            norm: BatchNorm::new(
                20,
                ones.zeros_like()?,
                ones,
                var("scale", &[20]),
                var("shift", &[20]),
                1e-5,
            )?,
            dropout: Dropout::new(0.3).with_seed(5),
            variables,
        })
    }

    fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let y = images.apply(&self.first)?.apply_t(&self.norm, train)?.relu()?;
        let y = y.apply(&MaxPool2d::new(3).with_stride(2).with_padding(1))?.apply_t(&self.dropout, train)?;
        self.second.forward(&y)?.apply(&AvgPool2d::new(2).with_stride(1))
    }
}

fn train() -> Vec<u64> {
    let net = Net::new().unwrap();
    let mut optimizer = AdamW::new(net.variables.all_vars(), ParamsAdamW::default()).unwrap();
    let images = in_type(&values("images", &[13, 3, 11, 10]), DType::F32).as_detached_tensor();
    for _ in 0..3 {
        optimizer
            .backward_step(&net.forward(&images, true).unwrap().sqr().unwrap().sum_all().unwrap())
            .unwrap();
    }
    let mut names: Vec<String> = net.variables.data().lock().unwrap().keys().cloned().collect();
    names.sort();
    let data = net.variables.data().lock().unwrap();
    let parameters = names.iter().flat_map(|name| host(&data[name]));
    parameters
        .chain(host(net.norm.running_mean()))
        .chain(host(net.norm.running_var()))
        .map(f64::to_bits)
        .collect()
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with =
        |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(train);
    let one = with(1);
    for threads in [2, 3, 5] {
        assert_eq!(with(threads), one, "{threads} threads");
    }
}

/// Evaluation in parallel over batches, inside the pool whose threads the layers share.
#[test]
fn layers_can_be_used_by_many_threads_at_once() {
    let net = Net::new().unwrap();
    let images = in_type(&values("images", &[16, 3, 11, 10]), DType::F32).as_detached_tensor();
    let batches: Vec<Tensor> = (0..8).map(|i| images.narrow(0, 2 * i, 2).unwrap()).collect();
    let expected: Vec<Vec<f64>> =
        batches.iter().map(|batch| host(&net.forward(batch, false).unwrap())).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let got: Vec<Vec<f64>> = pool.install(|| {
        let forward = |batch: &Tensor| host(&net.forward(batch, false).unwrap());
        batches.par_iter().map(forward).collect()
    });
    assert_eq!(got, expected);
}
