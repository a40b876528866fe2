//! Every layer: gradients against finite differences in f64, where they are composed of candle's operations; and in f32, where the kernels
//! compute them, against those in f64.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use crate::common::{assert_close, host, in_type, values, weighted_sum};
use candle_core::{DType, Device, Module, ModuleT, Result, Tensor, Var};
use candle_nn::{Conv2dConfig, VarBuilder, VarMap};
use pointwise_candle::{
    AvgPool2d, BatchNorm, BatchNormConfig, Conv2d, Dropout, MaxPool2d, batch_norm, conv2d, conv2d_no_bias,
};

/// Step of the central differences in f64, and their error against a gradient, relative to the largest one.
const DIFFERENCE: f64 = 1e-5;
const DIFFERENCE_TOLERANCE: f64 = 1e-7;

/// Winograd's rounding on sums of a few hundred products, relative to the largest value.
const F32_TOLERANCE: f64 = 2e-5;

type Layer = dyn Fn(&[Tensor]) -> Result<Tensor>;

/// A layer as a function of variables: the images first.
struct Case {
    name: String,
    variables: Vec<Var>,
    layer: Box<Layer>,
}

impl Case {
    fn output(&self, variables: &[Var]) -> Tensor {
        let tensors: Vec<Tensor> = variables.iter().map(|var| var.as_tensor().clone()).collect();
        (self.layer)(&tensors).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    fn gradients(&self, variables: &[Var]) -> (Tensor, Vec<Tensor>) {
        let y = self.output(variables);
        let gradients = weighted_sum(&y).backward().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        (y, variables.iter().map(|var| gradients.get(var).unwrap().clone()).collect())
    }

    fn loss(&self, variables: &[Var]) -> f64 {
        weighted_sum(&self.output(variables)).to_scalar().unwrap()
    }

    /// Gradients in f64 against central differences at a few elements of each variable.
    fn check_differences(&self) {
        let (_, gradients) = self.gradients(&self.variables);
        for (number, gradient) in gradients.iter().enumerate() {
            let gradient = host(gradient);
            let largest = gradient.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            let original = host(&self.variables[number]);
            for at in (0..original.len()).step_by(original.len().div_ceil(7)) {
                let moved = |by: f64| {
                    let mut values = original.clone();
                    values[at] += by;
                    let moved = Var::from_vec(values, self.variables[number].shape(), &Device::Cpu).unwrap();
                    let mut variables = self.variables.clone();
                    variables[number] = moved;
                    self.loss(&variables)
                };
                let expected = (moved(DIFFERENCE) - moved(-DIFFERENCE)) / (2.0 * DIFFERENCE);
                assert!(
                    (gradient[at] - expected).abs() <= DIFFERENCE_TOLERANCE * largest.max(1.0),
                    "{}, variable {number}: {} at {at}, not {expected}",
                    self.name,
                    gradient[at]
                );
            }
        }
    }

    /// Output and gradients in f32 against those in f64.
    fn check_f32(&self) {
        let variables: Vec<Var> = self.variables.iter().map(|var| in_type(var, DType::F32)).collect();
        let (y, gradients) = self.gradients(&variables);
        let (expected_y, expected) = self.gradients(&self.variables);
        assert_close(&self.name, &y, &expected_y, F32_TOLERANCE);
        for (number, (got, expected)) in gradients.iter().zip(&expected).enumerate() {
            assert_close(&format!("{}, variable {number}", self.name), got, expected, F32_TOLERANCE);
        }
    }
}

/// Images, weight, then stride, padding, dilation and groups.
type Convolution = ([usize; 4], [usize; 4], [usize; 4]);

/// Every path through the layer: the kernels' methods, dilation by phases, and compositions of candle's operations.
const CONVOLUTIONS: [Convolution; 17] = [
    ([3, 20, 9, 7], [33, 20, 3, 3], [1, 1, 1, 1]),
    ([2, 16, 5, 5], [10, 16, 1, 1], [1, 0, 1, 1]),
    ([2, 5, 4, 6], [18, 5, 1, 1], [1, 1, 1, 1]),
    ([1, 3, 8, 8], [4, 3, 5, 5], [1, 2, 1, 1]),
    ([2, 6, 9, 8], [12, 6, 3, 3], [2, 1, 1, 1]),
    // Where candle's own gradient fails: the stride leaves over a different number of rows than of columns.
    ([2, 3, 8, 7], [4, 3, 3, 3], [2, 1, 1, 1]),
    ([2, 3, 10, 7], [4, 3, 1, 1], [3, 0, 1, 1]),
    ([2, 4, 7, 9], [3, 4, 1, 3], [1, 0, 1, 1]),
    ([2, 3, 7, 9], [4, 3, 4, 2], [2, 1, 1, 1]),
    ([2, 8, 6, 7], [12, 4, 3, 3], [1, 1, 1, 2]),
    ([2, 20, 6, 5], [20, 1, 3, 3], [2, 1, 1, 20]),
    ([1, 4, 6, 5], [8, 1, 3, 3], [1, 1, 1, 4]),
    ([2, 17, 8, 9], [5, 17, 3, 3], [1, 2, 2, 1]),
    ([2, 3, 11, 12], [4, 3, 3, 3], [1, 1, 3, 1]),
    ([1, 6, 9, 7], [4, 3, 2, 3], [1, 0, 2, 2]),
    ([2, 3, 11, 12], [4, 3, 3, 3], [2, 1, 2, 1]),
    ([2, 2, 3, 4], [3, 2, 3, 3], [1, 4, 1, 1]),
];

fn convolution((images, weight, [stride, padding, dilation, groups]): Convolution, bias: bool) -> Case {
    let config = Conv2dConfig { stride, padding, dilation, groups, ..Conv2dConfig::default() };
    let mut variables = vec![values("images", &images), values("weight", &weight)];
    variables.extend(bias.then(|| values("bias", &[weight[0]])));
    Case {
        name: format!("{images:?} by {weight:?}, {config:?}, bias {bias}"),
        variables,
        layer: Box::new(move |tensors| {
            Conv2d::new(tensors[1].clone(), tensors.get(2).cloned(), config).forward(&tensors[0])
        }),
    }
}

fn pool(name: &str, images: [usize; 4], layer: impl Module + 'static) -> Case {
    Case {
        name: format!("{name} of {images:?}"),
        variables: vec![values("images", &images)],
        layer: Box::new(move |tensors| layer.forward(&tensors[0])),
    }
}

fn pools() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kernel, stride, padding, images) in [
        ((2, 2), (2, 2), (0, 0), [2, 3, 6, 8]),
        ((2, 2), (2, 2), (0, 0), [1, 2, 5, 7]),
        ((2, 2), (1, 1), (1, 1), [1, 2, 5, 4]),
        ((3, 3), (2, 2), (1, 1), [2, 2, 7, 8]),
        ((3, 3), (2, 2), (0, 0), [2, 2, 8, 9]),
        ((3, 2), (1, 3), (1, 0), [1, 3, 6, 8]),
        ((4, 4), (4, 4), (0, 0), [1, 1, 4, 4]),
        ((1, 1), (2, 3), (0, 0), [2, 1, 4, 4]),
    ] {
        let name = format!("windows {kernel:?}, {stride:?}, {padding:?}");
        let maximum = MaxPool2d::new(kernel).with_stride(stride).with_padding(padding);
        cases.push(pool(&format!("maximum, {name}"), images, maximum));
        for include in [true, false] {
            let mean = AvgPool2d::new(kernel).with_stride(stride).with_padding(padding);
            let mean = mean.with_count_include_pad(include);
            cases.push(pool(&format!("mean, {name}, padding counts: {include}"), images, mean));
        }
    }
    cases
}

fn norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [vec![3, 4, 5, 3], vec![2, 19, 4, 4], vec![7, 5], vec![3, 2, 33]] {
        for (train, affine) in [(true, true), (true, false), (false, true), (false, false)] {
            let channels = shape[1];
            let mut variables = vec![values("images", &shape)];
            if affine {
                variables.extend([values("weight", &[channels]), values("bias", &[channels])]);
            }
            let layer = move |tensors: &[Tensor]| {
                let mean =
                    (values("mean", &[channels]).as_detached_tensor() * 0.5)?.to_dtype(tensors[0].dtype())?;
                let variance = (mean.abs()? + 0.5)?;
                let norm = match &tensors[1..] {
                    [weight, bias] => {
                        BatchNorm::new(channels, mean, variance, weight.clone(), bias.clone(), 1e-3)
                    }
                    _ => BatchNorm::new_no_bias(channels, mean, variance, 1e-3),
                };
                norm?.forward_t(&tensors[0], train)
            };
            let name = format!("BatchNorm of {shape:?}, train {train}, affine {affine}");
            cases.push(Case { name, variables, layer: Box::new(layer) });
        }
    }
    cases
}

#[test]
fn gradients_are_finite_differences() {
    let convolutions = CONVOLUTIONS.into_iter().map(|shape| convolution(shape, true));
    convolutions.chain(pools()).chain(norms()).for_each(|case| case.check_differences());
}

#[test]
fn in_f32_they_are_those_of_f64() {
    let convolutions =
        CONVOLUTIONS.into_iter().flat_map(|shape| [true, false].map(|bias| convolution(shape, bias)));
    convolutions.chain(pools()).chain(norms()).for_each(|case| case.check_f32());
}

#[test]
fn batches_of_more_images_than_are_convolved_at_once() {
    for shape in [
        ([261, 3, 4, 5], [4, 3, 3, 3], [1, 1, 1, 1]),
        ([130, 2, 5, 6], [3, 2, 3, 3], [1, 2, 2, 1]),
        ([129, 3, 3, 3], [4, 3, 1, 1], [1, 1, 1, 1]),
    ] {
        convolution(shape, true).check_f32();
    }
}

/// A layer keeps its plan: for more images, for fewer, and for others.
#[test]
fn one_layer_takes_images_of_every_size() {
    let weight = in_type(&values("weight", &[4, 3, 3, 3]), DType::F32);
    let layer = Conv2d::new(weight.as_tensor().clone(), None, Conv2dConfig::default());
    for shape in [[1, 3, 6, 6], [5, 3, 6, 6], [2, 3, 6, 6], [2, 3, 9, 4], [0, 3, 6, 6]] {
        let images = in_type(&values("images", &shape), DType::F32);
        let expected = images.conv2d(&weight, 0, 1, 1, 1).unwrap();
        assert_close(&format!("{shape:?}"), &layer.forward(&images).unwrap(), &expected, F32_TOLERANCE);
    }
}

/// Tensors need not be contiguous, neither forward nor backward.
#[test]
fn any_layout_is_right() {
    let images = in_type(&values("images", &[2, 7, 6, 3]), DType::F32);
    let weight = in_type(&values("weight", &[3, 3, 3, 4]), DType::F32);
    let planar = images.as_tensor().permute((0, 3, 1, 2)).unwrap();
    let turned = weight.as_tensor().permute((3, 2, 0, 1)).unwrap();
    let network = |conv: &dyn Fn(&Tensor) -> Tensor, pool: &dyn Fn(&Tensor) -> Tensor| {
        let y = pool(&conv(&planar)).permute((0, 2, 3, 1)).unwrap();
        let gradients = weighted_sum(&y).backward().unwrap();
        (y, gradients.get(&images).unwrap().clone(), gradients.get(&weight).unwrap().clone())
    };
    let conv = Conv2d::new(turned.clone(), None, Conv2dConfig::default());
    let pool = AvgPool2d::new(2);
    let ours = network(&|x| conv.forward(x).unwrap(), &|x| pool.forward(x).unwrap());
    let (x, w) = (planar.contiguous().unwrap(), turned.contiguous().unwrap());
    let theirs = network(&|_| x.conv2d(&w, 0, 1, 1, 1).unwrap(), &|x| {
        // Four strided maps: candle's pool of a map of odd size has no gradient.
        pointwise_candle::composed::avg_pool2d(
            x,
            &pointwise_candle::composed::Windows { kernel: [2, 2], stride: [2, 2], padding: [0, 0] },
            true,
        )
        .unwrap()
    });
    assert_close("y", &ours.0, &theirs.0, F32_TOLERANCE);
    assert_close("images", &ours.1, &theirs.1, F32_TOLERANCE);
    assert_close("weight", &ours.2, &theirs.2, F32_TOLERANCE);
}

/// Images whose gradient is not needed get none; the weight gets its own nevertheless.
#[test]
fn the_first_layer_computes_no_gradient_of_the_images() {
    let case = convolution(([2, 3, 6, 6], [4, 3, 3, 3], [1, 1, 1, 1]), true);
    let variables: Vec<Var> = case.variables.iter().map(|var| in_type(var, DType::F32)).collect();
    let (_, expected) = case.gradients(&variables);
    let images = variables[0].as_detached_tensor();
    let layer = Conv2d::new(
        variables[1].as_tensor().clone(),
        Some(variables[2].as_tensor().clone()),
        Conv2dConfig { padding: 1, ..Conv2dConfig::default() },
    );
    let gradients = weighted_sum(&layer.forward(&images).unwrap()).backward().unwrap();
    assert!(gradients.get(&images).is_none());
    for (variable, expected) in variables.iter().zip(&expected).skip(1) {
        assert_eq!(host(gradients.get(variable).unwrap()), host(expected));
    }
}

#[test]
fn the_maximum_is_the_first_and_a_nan_the_last() {
    let nan = f32::NAN;
    for (window, taken) in [
        ([1.0, 3.0, 3.0, 2.0], 1),
        ([2.0, 2.0, 2.0, 2.0], 0),
        ([f32::NEG_INFINITY; 4], 0),
        ([nan, 5.0, nan, 9.0], 2),
        ([1.0, 5.0, 2.0, nan], 3),
    ] {
        // Both paths through the pool: windows side by side, and others.
        for pool in [MaxPool2d::new(2), MaxPool2d::new(2).with_stride(1)] {
            let x = Var::from_slice(&window, (1, 1, 2, 2), &Device::Cpu).unwrap();
            let y = pool.forward(&x).unwrap();
            let gradient = (y.sum_all().unwrap() * 2.0).unwrap().backward().unwrap();
            let mut expected = [0.0; 4];
            expected[taken] = 2.0;
            assert_eq!(host(gradient.get(&x).unwrap()), expected, "{window:?}");
            assert_eq!(
                y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].to_bits(),
                window[taken].to_bits()
            );
        }
    }
}

/// The running statistics move as candle's do, and a mean far from zero costs no digits.
#[test]
fn running_statistics_are_candles() {
    let x = in_type(&values("images", &[4, 3, 5, 5]), DType::F32);
    let stats = || {
        let zeros = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        (zeros.clone(), zeros.ones_like().unwrap(), zeros.ones_like().unwrap(), zeros)
    };
    let (mean, variance, weight, bias) = stats();
    let ours = BatchNorm::new_with_momentum(3, mean, variance, weight, bias, 1e-5, 0.3).unwrap();
    let (mean, variance, weight, bias) = stats();
    let theirs = candle_nn::BatchNorm::new_with_momentum(3, mean, variance, weight, bias, 1e-5, 0.3).unwrap();
    for _ in 0..3 {
        let (y, expected) = (ours.forward_train(&x).unwrap(), theirs.forward_train(&x).unwrap());
        assert_close("y", &y, &expected, 1e-5);
    }
    assert_close("mean", ours.running_mean(), theirs.running_mean(), 1e-6);
    assert_close("variance", ours.running_var(), theirs.running_var(), 1e-6);
    assert_close("eval", &ours.forward_t(&x, false).unwrap(), &theirs.forward_t(&x, false).unwrap(), 1e-6);

    // A thousand standard deviations away from zero, exact in f32.
    let sixteenths = (x.as_tensor() * 16.0).unwrap().round().unwrap();
    let near = ours.forward_train(&sixteenths).unwrap();
    let far = ours.forward_train(&(sixteenths + 16384.0).unwrap()).unwrap();
    assert_close("far", &far, &near, 1e-6);
}

#[test]
fn a_configuration_that_keeps_the_mean_is_candles() {
    let config = BatchNormConfig { remove_mean: false, ..BatchNormConfig::default() };
    let x = in_type(&values("images", &[4, 3, 5, 5]), DType::F32);
    let [ours, theirs] = [true, false].map(|ours| {
        let variables = VarMap::new();
        let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        match ours {
            true => batch_norm(3, config, vb).unwrap().forward_t(&x, true).unwrap(),
            false => candle_nn::batch_norm(3, config, vb).unwrap().forward_t(&x, true).unwrap(),
        }
    });
    assert_eq!(host(&ours), host(&theirs));
}

/// Names and shapes of variables are candle's, as are a layer's accessors and the folding of BatchNorm into a convolution.
#[test]
fn variables_are_candles() {
    let named = |make: &dyn Fn(VarBuilder<'_>)| {
        let variables = VarMap::new();
        make(VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu));
        let data = variables.data().lock().unwrap();
        let mut names: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.dims().to_vec())).collect();
        names.sort();
        names
    };
    let config = Conv2dConfig { groups: 2, ..Conv2dConfig::default() };
    let ours = named(&|vb| {
        conv2d(4, 6, 3, config, vb.pp("a")).unwrap();
        conv2d_no_bias(4, 6, 3, config, vb.pp("b")).unwrap();
        batch_norm(6, 1e-5, vb.pp("c")).unwrap();
    });
    let theirs = named(&|vb| {
        candle_nn::conv2d(4, 6, 3, config, vb.pp("a")).unwrap();
        candle_nn::conv2d_no_bias(4, 6, 3, config, vb.pp("b")).unwrap();
        candle_nn::batch_norm(6, 1e-5, vb.pp("c")).unwrap();
    });
    assert_eq!(ours, theirs);

    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let conv = conv2d(4, 6, 3, config, vb.pp("conv")).unwrap();
    let norm = batch_norm(6, 1e-5, vb.pp("norm")).unwrap();
    assert_eq!((conv.config().groups, conv.weight().dims(), norm.momentum()), (2, &[6, 2, 3, 3][..], 0.1));
    let x = in_type(&values("images", &[3, 4, 6, 6]), DType::F32);
    norm.forward_t(&conv.forward(&x).unwrap(), true).unwrap();
    let expected = norm.forward_t(&conv.forward(&x).unwrap(), false).unwrap();
    let folded = conv.absorb_bn(&norm).unwrap();
    assert_close("folded", &folded.forward(&x).unwrap(), &expected, F32_TOLERANCE);
}

/// Half floats on the CPU, which no kernel takes; candle has no bf16 convolutions there.
#[test]
fn other_types_fall_back() {
    for dtype in [DType::F16, DType::BF16] {
        let x = in_type(&values("images", &[2, 4, 6, 6]), dtype);
        let w = in_type(&values("weight", &[4, 4, 3, 3]), dtype);
        let config = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let y = match dtype {
            DType::F16 => Conv2d::new(w.as_tensor().clone(), None, config).forward(&x).unwrap(),
            _ => x.as_tensor().clone(),
        };
        let y = MaxPool2d::new(2).forward(&y).unwrap();
        let y = AvgPool2d::new(3).with_stride(1).with_padding(1).forward(&y).unwrap();
        let y = Dropout::new(0.25).forward(&y, true).unwrap();
        assert_eq!((y.dtype(), y.dims()), (dtype, &[2, 4, 3, 3][..]));
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(gradients.get(&x).unwrap().dtype(), dtype);
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let x = in_type(&values("images", &[2, 4, 5, 5]), DType::F32);
    let conv = |weight: &[usize], config: Conv2dConfig| {
        let weight = in_type(&values("weight", weight), DType::F32);
        Conv2d::new(weight.as_tensor().clone(), None, config).forward(&x)
    };
    let default = Conv2dConfig::default();
    let norm = |channels: usize| {
        let ones = Tensor::ones(channels, DType::F32, &Device::Cpu).unwrap();
        BatchNorm::new_no_bias(channels, ones.clone(), ones, 1e-5).unwrap()
    };
    let wide_bias = Conv2d::new(
        Tensor::zeros((3, 4, 1, 1), DType::F32, &Device::Cpu).unwrap(),
        Some(Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap()),
        default,
    );
    for (result, words) in [
        (conv(&[3, 3, 3, 3], default), "does not fit"),
        (conv(&[3, 2, 3, 3], Conv2dConfig { groups: 2, ..default }), "does not fit"),
        (conv(&[3, 4, 3, 3], Conv2dConfig { groups: 0, ..default }), "does not fit"),
        (conv(&[3, 4, 6, 6], default), "larger than a map of 5x5"),
        (conv(&[3, 4, 3, 3], Conv2dConfig { dilation: 3, ..default }), "larger than a map of 5x5"),
        (conv(&[3, 4, 3, 3], Conv2dConfig { stride: 0, ..default }), "stride [0, 0]"),
        (conv(&[3, 4, 3, 3], Conv2dConfig { dilation: 0, ..default }), "dilation [0, 0]"),
        (conv(&[3, 4, 3], default), "unexpected rank"),
        (wide_bias.forward(&x), "a bias of 2 values"),
        (MaxPool2d::new(6).forward(&x), "larger than a map of 5x5"),
        (MaxPool2d::new(0).forward(&x), "a pool cannot"),
        (MaxPool2d::new(2).with_stride(0).forward(&x), "a pool cannot"),
        (AvgPool2d::new(2).with_padding(2).forward(&x), "at most half a window"),
        (AvgPool2d::new(2).forward(&x.i0()), "unexpected rank"),
        (norm(3).forward_t(&x, true), "number of features"),
        (
            norm(4).forward_t(
                &x.narrow(0, 0, 1).unwrap().narrow(2, 0, 1).unwrap().narrow(3, 0, 1).unwrap(),
                true,
            ),
            "more than one value",
        ),
        (Dropout::new(1.0).forward(&x, true), "[0, 1)"),
        (Dropout::new(f32::NAN).forward(&x, true), "[0, 1)"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}, not {words}");
    }
}

trait FirstImage {
    fn i0(&self) -> Tensor;
}

impl FirstImage for Var {
    fn i0(&self) -> Tensor {
        self.as_tensor().get(0).unwrap()
    }
}

#[test]
fn masks_follow_the_seed_and_the_pass() {
    let x = in_type(&values("images", &[5, 40, 40]), DType::F32);
    let mask = |layer: &Dropout| host(&layer.forward(&x.ones_like().unwrap(), true).unwrap());
    let layer = Dropout::new(0.25).with_seed(7);
    let (first, second) = (mask(&layer), mask(&layer.clone()));
    assert_ne!(first, second);
    assert_eq!(layer.passes(), 2);
    let again = Dropout::new(0.25).with_seed(7);
    assert_eq!(mask(&again), first);
    assert_ne!(mask(&Dropout::new(0.25).with_seed(8)), first);
    assert_ne!(mask(&Dropout::new(0.25)), mask(&Dropout::new(0.25)));
    again.set_passes(0);
    assert_eq!(mask(&again), first);
    let kept = first.iter().filter(|factor| **factor != 0.0).count();
    assert!(first.iter().all(|factor| *factor == 0.0 || (*factor - 4.0 / 3.0).abs() < 1e-6));
    // Six standard deviations of the binomial.
    assert!((kept as f64 - 6000.0).abs() < 6.0 * (8000.0 * 0.25 * 0.75f64).sqrt(), "{kept}");
    // Evaluation leaves the images alone and counts nothing.
    assert_eq!(host(&again.forward(&x, false).unwrap()), host(&x));
    assert_eq!(again.passes(), 1);
    // The gradient goes through the same mask.
    again.set_passes(0);
    let gradients = again.forward(&x, true).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(host(gradients.get(&x).unwrap()), first);
}
