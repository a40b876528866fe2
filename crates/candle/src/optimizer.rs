//! Optimizers whose state can be saved and loaded.

use crate::composed;
use crate::elements::{Elements, native, with_elements};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};
use pointwise_kernels::{AdamStep, Isa, SgdStep};
use std::collections::HashMap;
use std::path::Path;

/// Gradient descent with momentum and the L2 penalty in the gradient, as `torch.optim.SGD`.
pub type Sgd = Stateful<ParamsSgd>;

/// Adam (Kingma and Ba 2015, arXiv:1412.6980) with the L2 penalty in the gradient, as `torch.optim.Adam`.
pub type Adam = Stateful<ParamsAdam>;

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), as `torch.optim.AdamW` and [`candle_nn::AdamW`].
pub type AdamW = Stateful<ParamsAdamW>;

/// Parameters of [`Sgd`]. Ranges are PyTorch's: none may be negative.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamsSgd {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the momentum buffer, which becomes `momentum * buffer + gradient`; 0 is plain gradient descent.
    pub momentum: f64,
    /// Factor of the L2 penalty's gradient.
    pub weight_decay: f64,
    /// Whether a step goes along `gradient + momentum * buffer` in place of the buffer.
    pub nesterov: bool,
}

impl Default for ParamsSgd {
    /// PyTorch's: a learning rate of 0.001 and nothing else.
    fn default() -> Self {
        Self { lr: 0.001, momentum: 0.0, weight_decay: 0.0, nesterov: false }
    }
}

/// Parameters of [`Adam`].
#[derive(Debug, Clone, PartialEq)]
pub struct ParamsAdam {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Factor of the L2 penalty's gradient.
    pub weight_decay: f64,
}

impl Default for ParamsAdam {
    /// PyTorch's.
    fn default() -> Self {
        Self { lr: 0.001, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// How an optimizer updates a parameter, and what it keeps for the next step.
pub trait Rule {
    /// PyTorch's names for a parameter's buffers, each of the parameter's shape and zero at first.
    const BUFFERS: &'static [&'static str];

    /// Learning rate.
    fn lr(&self) -> f64;

    /// Sets the learning rate.
    fn set_lr(&mut self, lr: f64);

    /// Takes step `number`, from 1: updates a parameter and its buffers in place.
    ///
    /// # Errors
    /// When shapes differ or the device fails.
    fn update(&self, number: u64, parameter: &Var, gradient: &Tensor, buffers: &[Var]) -> Result<()>;
}

/// An optimizer with a [`Rule`]: use it as [`Sgd`], [`Adam`] or [`AdamW`], through [`candle_nn::Optimizer`].
///
/// In f32 on the CPU a step is one pass over parameter, gradient and buffers; elsewhere it is composed of candle's operations. A variable
/// without a gradient is left as it is.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Optimizer, VarBuilder, VarMap};
/// use pointwise_candle::{Sgd, ParamsSgd};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let weight = vb.get((3,), "weight")?;
/// let params = ParamsSgd { lr: 0.1, momentum: 0.9, ..ParamsSgd::default() };
/// let mut optimizer = Sgd::new(variables.all_vars(), params.clone())?;
/// optimizer.backward_step(&weight.sqr()?.sum_all()?)?;
///
/// // The state is saved by variable name: an interrupted training continues with the same numbers.
/// let folder = tempfile::tempdir()?;
/// variables.save(folder.path().join("weights.safetensors"))?;
/// optimizer.save(&variables, folder.path().join("optimizer.safetensors"))?;
/// let mut resumed = Sgd::new(variables.all_vars(), params)?;
/// variables.load(folder.path().join("weights.safetensors"))?;
/// resumed.load(&variables, folder.path().join("optimizer.safetensors"))?;
/// assert_eq!(resumed.steps(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Stateful<R> {
    rule: R,
    parameters: Vec<Parameter>,
    steps: u64,
}

#[derive(Debug)]
struct Parameter {
    var: Var,
    buffers: Vec<Var>,
}

/// Prefix of buffer names in a file, as in the trainer's checkpoints: `optimizer.BUFFER.NAME`.
const PREFIX: &str = "optimizer";

/// The name of the number of steps in a file: `(1)`, i64.
const STEPS: &str = "optimizer.step";

impl<R: Rule> Optimizer for Stateful<R> {
    type Config = R;

    /// Takes those variables that have a float type.
    fn new(vars: Vec<Var>, rule: R) -> Result<Self> {
        let floats = vars.into_iter().filter(|var| var.dtype().is_float());
        let parameters = floats
            .map(|var| {
                let zeros = |_| Var::zeros(var.shape(), var.dtype(), var.device());
                let buffers = R::BUFFERS.iter().map(zeros).collect::<Result<_>>()?;
                Ok(Parameter { var, buffers })
            })
            .collect::<Result<_>>()?;
        Ok(Self { rule, parameters, steps: 0 })
    }

    fn step(&mut self, gradients: &GradStore) -> Result<()> {
        self.steps += 1;
        for Parameter { var, buffers } in &self.parameters {
            if let Some(gradient) = gradients.get(var) {
                self.rule.update(self.steps, var, gradient, buffers)?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.rule.lr()
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.rule.set_lr(lr);
    }
}

impl<R: Rule> Stateful<R> {
    /// The parameters, with the current learning rate.
    #[must_use]
    pub fn params(&self) -> &R {
        &self.rule
    }

    /// Replaces the parameters; the state stays.
    pub fn set_params(&mut self, params: R) {
        self.rule = params;
    }

    /// Steps taken so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Buffers by their names in a file, which end in their variable's name in `variables`.
    fn named(&self, variables: &VarMap) -> Result<HashMap<String, &Var>> {
        let names: HashMap<_, _> = match variables.data().lock() {
            Ok(variables) => variables.iter().map(|(name, var)| (var.id(), name.clone())).collect(),
            Err(_) => bail!("the variables are locked by a thread that panicked"),
        };
        let mut named = HashMap::new();
        for Parameter { var, buffers } in &self.parameters {
            let Some(name) = names.get(&var.id()) else {
                bail!("the optimizer's variable of shape {:?} is not among the variables", var.shape())
            };
            for (buffer, var) in R::BUFFERS.iter().zip(buffers) {
                named.insert(format!("{PREFIX}.{buffer}.{name}"), var);
            }
        }
        Ok(named)
    }

    /// Writes the state to a safetensors file, which replaces an existing one only once it is complete: each buffer as `optimizer.BUFFER.NAME`, from
    /// PyTorch's name for the buffer and the variable's name in `variables`, and the number of steps as `optimizer.step`.
    ///
    /// # Errors
    /// When `variables` lacks one of the optimizer's, or the file cannot be written.
    pub fn save(&self, variables: &VarMap, path: impl AsRef<Path>) -> Result<()> {
        let buffers = self.named(variables)?;
        let mut tensors: HashMap<String, Tensor> =
            buffers.into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
        tensors.insert(STEPS.to_owned(), Tensor::new(&[self.steps as i64], &Device::Cpu)?);
        let path = path.as_ref();
        candle_core::safetensors::save(&tensors, path)
            .map_err(|error| candle_core::Error::msg(format!("{}: {error}", path.display())))
    }

    /// Reads what [`Stateful::save`] wrote; after an error the state is unchanged. The learning rate is not part of it.
    ///
    /// # Errors
    /// When the file cannot be read, lacks a buffer, has one too many or one of another shape or type, or `variables` lacks one of the
    /// optimizer's.
    pub fn load(&mut self, variables: &VarMap, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let said = |what: String| candle_core::Error::msg(format!("{}: {what}", path.display()));
        let mut tensors =
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| said(error.to_string()))?;
        let steps = match tensors.remove(STEPS) {
            Some(steps) if steps.dtype() == DType::I64 && steps.elem_count() == 1 => {
                steps.flatten_all()?.to_vec1::<i64>()?[0]
            }
            _ => return Err(said(format!("it is not an optimizer's state, which has a number `{STEPS}`"))),
        };
        let steps = u64::try_from(steps).map_err(|_| said(format!("{steps} steps")))?;
        let buffers = self.named(variables)?;
        let mut pairs = Vec::new();
        for (name, var) in &buffers {
            let Some(tensor) = tensors.remove(name) else {
                return Err(said(format!("it lacks `{name}`")));
            };
            if tensor.shape() != var.shape() || tensor.dtype() != var.dtype() {
                return Err(said(format!(
                    "`{name}` is {:?} of shape {:?}, not {:?} of shape {:?}",
                    tensor.dtype(),
                    tensor.shape(),
                    var.dtype(),
                    var.shape()
                )));
            }
            pairs.push((var, tensor.to_device(var.device())?));
        }
        if let Some(name) = tensors.keys().min() {
            return Err(said(format!(
                "it has `{name}`, which is not a buffer of this optimizer's variables"
            )));
        }
        for (var, tensor) in pairs {
            var.set(&tensor)?;
        }
        self.steps = steps;
        Ok(())
    }
}

impl AdamW {
    /// With a learning rate, and candle's defaults for the rest.
    ///
    /// # Errors
    /// As [`Optimizer::new`].
    pub fn new_lr(vars: Vec<Var>, learning_rate: f64) -> Result<Self> {
        Self::new(vars, ParamsAdamW { lr: learning_rate, ..ParamsAdamW::default() })
    }
}

impl Rule for ParamsSgd {
    const BUFFERS: &'static [&'static str] = &["momentum_buffer"];

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn update(&self, _: u64, parameter: &Var, gradient: &Tensor, buffers: &[Var]) -> Result<()> {
        let Self { lr, momentum, weight_decay, nesterov } = *self;
        let step = SgdStep { lr, momentum, weight_decay, nesterov };
        let [buffer] = buffers else { bail!("Sgd has one buffer, not {}", buffers.len()) };
        if !native([parameter.as_tensor(), gradient]) {
            return composed::sgd(&step, parameter, gradient, buffer);
        }
        in_place(parameter, gradient, |parameter, gradient| {
            with_elements(buffer, |buffer| {
                by_sixteens([parameter, buffer], gradient, |[parameter, buffer], gradient| {
                    pointwise_kernels::sgd(Isa::detect(), step, parameter, gradient, buffer);
                });
                Ok(())
            })
        })
    }
}

/// A kernel that takes a step of Adam.
type AdamKernel = fn(Isa, AdamStep, &mut [f32], &[f32], &mut [f32], &mut [f32]);

fn adam_in_place(
    kernel: AdamKernel,
    step: AdamStep,
    parameter: &Var,
    gradient: &Tensor,
    [first, second]: [&Var; 2],
) -> Result<()> {
    in_place(parameter, gradient, |parameter, gradient| {
        with_elements(first, |first| {
            with_elements(second, |second| {
                by_sixteens([parameter, first, second], gradient, |[parameter, first, second], gradient| {
                    kernel(Isa::detect(), step, parameter, gradient, first, second);
                });
                Ok(())
            })
        })
    })
}

impl Rule for ParamsAdam {
    const BUFFERS: &'static [&'static str] = &["exp_avg", "exp_avg_sq"];

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn update(&self, number: u64, parameter: &Var, gradient: &Tensor, buffers: &[Var]) -> Result<()> {
        let Self { lr, beta1, beta2, eps, weight_decay } = *self;
        let step = AdamStep { lr, beta1, beta2, eps, weight_decay, step: number };
        let [first, second] = buffers else { bail!("Adam has two buffers, not {}", buffers.len()) };
        if !native([parameter.as_tensor(), gradient]) {
            return composed::adam(&step, parameter, gradient, first, second);
        }
        adam_in_place(pointwise_kernels::adam, step, parameter, gradient, [first, second])
    }
}

impl Rule for ParamsAdamW {
    const BUFFERS: &'static [&'static str] = ParamsAdam::BUFFERS;

    fn lr(&self) -> f64 {
        self.lr
    }

    fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    fn update(&self, number: u64, parameter: &Var, gradient: &Tensor, buffers: &[Var]) -> Result<()> {
        let Self { lr, beta1, beta2, eps, weight_decay } = *self;
        let step = AdamStep { lr, beta1, beta2, eps, weight_decay, step: number };
        let [first, second] = buffers else { bail!("AdamW has two buffers, not {}", buffers.len()) };
        if !native([parameter.as_tensor(), gradient]) {
            return composed::adamw(&step, parameter, gradient, first, second);
        }
        adam_in_place(pointwise_kernels::adamw, step, parameter, gradient, [first, second])
    }
}

/// Runs `work` on a parameter's elements, which it may write, and on its gradient's.
fn in_place(
    parameter: &Var,
    gradient: &Tensor,
    work: impl FnOnce(&mut [f32], &[f32]) -> Result<()>,
) -> Result<()> {
    if gradient.shape() != parameter.shape() {
        bail!("a gradient of shape {:?} does not fit shape {:?}", gradient.shape(), parameter.shape())
    }
    let gradient = gradient.contiguous()?;
    let gradient = Elements::of(&gradient)?;
    with_elements(parameter, |parameter| work(parameter, &gradient))
}

/// Runs `work` on slices of equal length in two parts: the whole blocks of sixteen elements that the kernels take, and the rest padded with zeros.
fn by_sixteens<const N: usize>(
    targets: [&mut [f32]; N],
    source: &[f32],
    work: impl Fn([&mut [f32]; N], &[f32]),
) {
    const SIXTEEN: usize = 16;
    let whole = source.len() - source.len() % SIXTEEN;
    let mut rests = [[0.0; SIXTEEN]; N];
    let mut source_rest = [0.0; SIXTEEN];
    let rest = source.len() - whole;
    source_rest[..rest].copy_from_slice(&source[whole..]);
    let parts = targets.map(|target| target.split_at_mut(whole));
    let mut tails = Vec::with_capacity(N);
    let heads = parts.map(|(head, tail)| {
        tails.push(tail);
        head
    });
    work(heads, &source[..whole]);
    if rest == 0 {
        return;
    }
    for (padded, tail) in rests.iter_mut().zip(&tails) {
        padded[..rest].copy_from_slice(tail);
    }
    work(rests.each_mut().map(|rest| &mut rest[..]), &source_rest);
    for (padded, tail) in rests.iter().zip(tails) {
        tail.copy_from_slice(&padded[..rest]);
    }
}
