//! Convolutions by cuDNN, channels last.
//!
//! In cuDNN, each of the three directions has its own calls, algorithms and list types: [`Direction`] is what they have in common.
#![expect(unsafe_code, reason = "cuDNN is a C library")]

use super::choices::Numbers;
use super::driver::{Buffer, Context, Gpu, Stream, card_name, exclusive, failed, loaded, pointer};
use super::launch::Address;
use crate::error::EngineError;
use candle_core::cuda_backend::cudarc::cudnn::sys;
use pointwise_recipe::Precision;
use std::ffi::{CStr, c_char, c_int};
use std::fmt::{self, Debug, Display};
use std::ptr;
use std::sync::Arc;
use sys::cudnnMathType_t::{
    CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
};
use sys::cudnnStatus_t::{CUDNN_STATUS_NOT_SUPPORTED, CUDNN_STATUS_SUCCESS};

/// Bytes that a convolution may use in addition to its operands.
pub(super) const MOST_WORKSPACE: usize = 256 << 20;

/// Entries to request: more than there are pairs of an algorithm and an arithmetic.
const ENTRIES: usize = 16;

/// Algorithms that are measured for a direction: cuDNN's own order is good, and the code of each must be loaded first.
const MEASURED: usize = 4;

/// How often an algorithm is measured, after a warm-up run.
const TRIALS: usize = 3;

/// cuDNN's own message about the last failed call, after a colon; empty if there is none.
fn last_words() -> String {
    let mut words = [0 as c_char; 512];
    // SAFETY: the place is ours, of that length, and ends in a zero whatever is written before.
    let words = unsafe {
        sys::cudnnGetLastErrorString(words.as_mut_ptr(), words.len() - 1);
        CStr::from_ptr(words.as_ptr()).to_string_lossy().trim().to_owned()
    };
    if words.is_empty() { words } else { format!(": {words}") }
}

fn checked(what: impl FnOnce() -> String, status: sys::cudnnStatus_t) -> Result<(), EngineError> {
    match status {
        CUDNN_STATUS_SUCCESS => Ok(()),
        status => Err(match loaded("libcudnn.so") {
            // Its code for a missing library is also its code for a GPU that it cannot use.
            Some(path) => {
                let words = last_words();
                EngineError::Device(format!("{}: cuDNN says {status:?}{words} (loaded from {path})", what()))
            }
            None => failed(&what(), status),
        }),
    }
}

/// The version of cuDNN, such as 91002; `None` if it is not installed.
pub(super) fn dnn_version() -> Option<usize> {
    // SAFETY: takes nothing.
    let version = unsafe { sys::cudnnGetVersion() };
    // Without the library, the error code of that.
    (version != sys::cudnnStatus_t::CUDNN_STATUS_NOT_INITIALIZED as usize).then_some(version)
}

/// Checks that there is a GPU with that number, and cuDNN. Opens nothing.
///
/// # Errors
/// [`EngineError::Device`] with what is missing.
pub(crate) fn look_for(ordinal: usize) -> Result<(), EngineError> {
    card_name(ordinal)?;
    match dnn_version() {
        Some(_) => Ok(()),
        None => Err(failed("looking for cuDNN", sys::cudnnStatus_t::CUDNN_STATUS_NOT_INITIALIZED)),
    }
}

/// cuDNN on a GPU's stream.
#[derive(Debug)]
pub(super) struct Dnn {
    context: Arc<Context>,
    handle: sys::cudnnHandle_t,
    precision: Precision,
}

impl Dnn {
    /// Starts cuDNN on a stream of the GPU's.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    pub(super) fn new(gpu: &Gpu, stream: Stream, precision: Precision) -> Result<Self, EngineError> {
        let mut made = Self { context: Arc::clone(&gpu.context), handle: ptr::null_mut(), precision };
        let what = || "starting cuDNN".to_owned();
        let turn = exclusive();
        // SAFETY: the handle's place is ours and outlives the calls; the stream lives as long as the handle.
        unsafe {
            checked(what, sys::cudnnCreate(&mut made.handle))?;
            checked(what, sys::cudnnSetStream(made.handle, stream.cast()))?;
        }
        drop(turn);
        Ok(made)
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        if !self.handle.is_null() && self.context.make_current().is_ok() {
            let _turn = exclusive();
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { sys::cudnnDestroy(self.handle) };
        }
    }
}

/// What a convolution reads and writes, with all sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConvolutionShape {
    pub(super) n: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) in_channels: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    pub(super) out_channels: usize,
    /// Rows, then columns.
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) padding: [usize; 2],
    pub(super) groups: usize,
}

impl ConvolutionShape {
    /// Values of both maps and of the weights.
    fn len(&self) -> usize {
        let Self { n, height, width, in_channels, out_height, out_width, out_channels, groups, .. } = *self;
        let [rows, columns] = self.kernel;
        n * (height * width * in_channels + out_height * out_width * out_channels)
            + out_channels * in_channels / groups * rows * columns
    }
}

impl Display for ConvolutionShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n, height, width, in_channels, out_channels, groups, .. } = self;
        let [[rows, columns], [down, right], [above, left]] = [self.kernel, self.stride, self.padding];
        write!(f, "{n}x{height}x{width}x{in_channels} to {out_channels} channels by {rows}x{columns}")?;
        write!(f, ", stride {down}x{right}, padding {above}x{left}, {groups} groups")
    }
}

/// Addresses of input, weights and results, or of their gradients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub(super) x: Address,
    pub(super) w: Address,
    pub(super) y: Address,
}

/// How an algorithm is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The fastest, measured.
    Measured,
    /// The first that works among those that give the same bits every time; a measured choice would not.
    Deterministic,
}

/// An algorithm as cuDNN lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed<A> {
    pub(super) algorithm: A,
    /// The algorithm's number.
    pub(super) number: u32,
    pub(super) math: sys::cudnnMathType_t,
    pub(super) status: sys::cudnnStatus_t,
    pub(super) deterministic: bool,
}

impl<A> Listed<A> {
    fn can_be_used(&self, precision: Precision, choice: Choice) -> bool {
        let in_f32 = ![CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION].contains(&self.math);
        let arithmetic = match precision {
            Precision::F32 => in_f32,
            // The conversion is to 16 bits.
            Precision::Tf32 => self.math != CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
            Precision::Bf16 => true,
        };
        self.status == CUDNN_STATUS_SUCCESS
            && arithmetic
            && (choice == Choice::Measured || self.deterministic)
    }
}

/// An algorithm that ran, with its arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chosen<A> {
    algorithm: A,
    number: u32,
    math: sys::cudnnMathType_t,
    workspace: usize,
}

/// What is known of a direction of one convolution.
#[derive(Debug)]
pub(super) struct Tuned<D: Direction> {
    /// Its own, since the arithmetic depends on the algorithm.
    operation: sys::cudnnConvolutionDescriptor_t,
    chosen: Option<Chosen<D::Algorithm>>,
    /// Whether cuDNN has been asked for an algorithm.
    asked: bool,
}

impl<D: Direction> Default for Tuned<D> {
    fn default() -> Self {
        Self { operation: ptr::null_mut(), chosen: None, asked: false }
    }
}

/// Descriptors of input, weights and results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptors {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
}

/// A direction of a convolution: forward, or one of two backward.
pub(super) trait Direction: Debug + Sized {
    /// cuDNN's algorithms for it.
    type Algorithm: Copy + Debug + PartialEq;
    /// An entry of cuDNN's list of them.
    type Entry: Copy;
    /// The name in a message, after "convolution".
    const NAME: &'static str;
    /// The name in a list of what a step does.
    const KERNEL: &'static str;
    /// PyTorch's choice for bit-identical results, which NVIDIA calls deterministic; it is available everywhere for channels-last filters.
    const DETERMINISTIC: Self::Algorithm;

    fn tuned(convolution: &Convolution2d) -> &Tuned<Self>;
    fn tuned_mut(convolution: &mut Convolution2d) -> &mut Tuned<Self>;
    fn read(entry: &Self::Entry) -> Listed<Self::Algorithm>;

    /// cuDNN's list, best first.
    ///
    /// # Safety
    /// The descriptors were made; `list` has room for `most` entries.
    unsafe fn list(
        dnn: sys::cudnnHandle_t,
        of: Descriptors,
        operation: sys::cudnnConvolutionDescriptor_t,
        most: c_int,
        found: &mut c_int,
        list: *mut Self::Entry,
    ) -> sys::cudnnStatus_t;

    /// Bytes that an algorithm needs in addition to its operands.
    ///
    /// # Safety
    /// The descriptors were made.
    unsafe fn bytes(
        dnn: sys::cudnnHandle_t,
        of: Descriptors,
        operation: sys::cudnnConvolutionDescriptor_t,
        algorithm: Self::Algorithm,
        bytes: &mut usize,
    ) -> sys::cudnnStatus_t;

    /// Starts it: factors are 1 and 0.
    ///
    /// # Safety
    /// The descriptors were made; `workspace` has `bytes` bytes.
    unsafe fn start(
        dnn: sys::cudnnHandle_t,
        of: Descriptors,
        operation: sys::cudnnConvolutionDescriptor_t,
        algorithm: Self::Algorithm,
        at: Operands,
        workspace: (Address, usize),
    ) -> sys::cudnnStatus_t;
}

const ONE: f32 = 1.0;
const ZERO: f32 = 0.0;

/// A [`Direction`]. The operands of each call are in its own order: the two that it reads, and the one that it writes.
macro_rules! direction {
    (
        $(#[$doc:meta])* $direction:ident, $field:ident, $name:literal, $kernel:literal, $algorithm:ident, $entry:ident,
        deterministic: $deterministic:ident,
        list: $list:ident, bytes: $bytes:ident, start: $start:ident,
        $a:ident, $b:ident => $out:ident
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $direction;

        impl Direction for $direction {
            type Algorithm = sys::$algorithm;
            type Entry = sys::$entry;
            const NAME: &'static str = $name;
            const KERNEL: &'static str = $kernel;
            const DETERMINISTIC: Self::Algorithm = sys::$algorithm::$deterministic;

            fn tuned(convolution: &Convolution2d) -> &Tuned<Self> {
                &convolution.$field
            }

            fn tuned_mut(convolution: &mut Convolution2d) -> &mut Tuned<Self> {
                &mut convolution.$field
            }

            fn read(entry: &Self::Entry) -> Listed<Self::Algorithm> {
                Listed {
                    algorithm: entry.algo,
                    number: entry.algo as u32,
                    math: entry.mathType,
                    status: entry.status,
                    deterministic: entry.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                }
            }

            unsafe fn list(
                dnn: sys::cudnnHandle_t,
                of: Descriptors,
                operation: sys::cudnnConvolutionDescriptor_t,
                most: c_int,
                found: &mut c_int,
                list: *mut Self::Entry,
            ) -> sys::cudnnStatus_t {
                // SAFETY: the caller's.
                unsafe { sys::$list(dnn, of.$a, of.$b, operation, of.$out, most, found, list) }
            }

            unsafe fn bytes(
                dnn: sys::cudnnHandle_t,
                of: Descriptors,
                operation: sys::cudnnConvolutionDescriptor_t,
                algorithm: Self::Algorithm,
                bytes: &mut usize,
            ) -> sys::cudnnStatus_t {
                // SAFETY: the caller's.
                unsafe { sys::$bytes(dnn, of.$a, of.$b, operation, of.$out, algorithm, bytes) }
            }

            unsafe fn start(
                dnn: sys::cudnnHandle_t,
                of: Descriptors,
                operation: sys::cudnnConvolutionDescriptor_t,
                algorithm: Self::Algorithm,
                at: Operands,
                workspace: (Address, usize),
            ) -> sys::cudnnStatus_t {
                // SAFETY: the caller's; the factors live for ever.
                unsafe {
                    sys::$start(
                        dnn,
                        ptr::from_ref(&ONE).cast(),
                        of.$a,
                        pointer(at.$a).cast_const(),
                        of.$b,
                        pointer(at.$b).cast_const(),
                        operation,
                        algorithm,
                        pointer(workspace.0),
                        workspace.1,
                        ptr::from_ref(&ZERO).cast(),
                        of.$out,
                        pointer(at.$out),
                    )
                }
            }
        }
    };
}

direction! {
    /// `y` from `x` and `w`.
    Forward, forward, "forward", "convolution", cudnnConvolutionFwdAlgo_t, cudnnConvolutionFwdAlgoPerf_t,
    deterministic: CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
    list: cudnnGetConvolutionForwardAlgorithm_v7, bytes: cudnnGetConvolutionForwardWorkspaceSize,
    start: cudnnConvolutionForward,
    x, w => y
}

direction! {
    /// The gradient of `x` from `w` and the gradient of `y`.
    Data, data, "for the input's gradient", "convolution_data", cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdDataAlgoPerf_t,
    deterministic: CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
    list: cudnnGetConvolutionBackwardDataAlgorithm_v7, bytes: cudnnGetConvolutionBackwardDataWorkspaceSize,
    start: cudnnConvolutionBackwardData,
    w, y => x
}

direction! {
    /// The gradient of `w` from `x` and the gradient of `y`.
    Filter, filter, "for the weights' gradient", "convolution_filter", cudnnConvolutionBwdFilterAlgo_t, cudnnConvolutionBwdFilterAlgoPerf_t,
    deterministic: CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
    list: cudnnGetConvolutionBackwardFilterAlgorithm_v7, bytes: cudnnGetConvolutionBackwardFilterWorkspaceSize,
    start: cudnnConvolutionBackwardFilter,
    x, y => w
}

/// An algorithm of a convolution's direction, with the result of trying it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    /// `forward`, or for which gradient.
    pub direction: &'static str,
    /// cuDNN's name for it.
    pub algorithm: String,
    /// cuDNN's name for its arithmetic.
    pub math: String,
    /// What cuDNN reported about it, in its list or when it ran.
    pub status: String,
    /// Bytes in addition to the operands; `None` if it is not available.
    pub workspace: Option<usize>,
    /// Whether, according to cuDNN, it gives the same bits every time.
    pub deterministic: bool,
    /// Whether precision and choice allow it.
    pub can_be_used: bool,
    /// Seconds of the fastest of some runs; `None` if it did not run.
    pub seconds: Option<f64>,
    /// Whether it is the one chosen.
    pub chosen: bool,
}

/// A 2-D convolution of one shape by cuDNN, channels last, weights `(out, rows, columns, in)`, with an algorithm for each direction,
/// where cuDNN has one.
#[derive(Debug)]
pub(super) struct Convolution2d {
    context: Arc<Context>,
    shape: ConvolutionShape,
    descriptors: Descriptors,
    forward: Tuned<Forward>,
    data: Tuned<Data>,
    filter: Tuned<Filter>,
}

impl Convolution2d {
    pub(super) fn new(gpu: &Gpu, dnn: &Dnn, shape: ConvolutionShape) -> Result<Self, EngineError> {
        let descriptors = Descriptors { x: ptr::null_mut(), w: ptr::null_mut(), y: ptr::null_mut() };
        let mut made = Self {
            context: Arc::clone(&gpu.context),
            shape,
            descriptors,
            forward: Tuned::default(),
            data: Tuned::default(),
            filter: Tuned::default(),
        };
        let kind = match dnn.precision {
            Precision::F32 | Precision::Tf32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let [n, inputs, outputs, height, width, out_height, out_width, groups] = [
            shape.n,
            shape.in_channels,
            shape.out_channels,
            shape.height,
            shape.width,
            shape.out_height,
            shape.out_width,
            shape.groups,
        ]
        .map(|side| side as c_int);
        let [[rows, columns], [down, right], [above, left]] =
            [shape.kernel, shape.stride, shape.padding].map(|pair| pair.map(|side| side as c_int));
        let check = |status| checked(|| format!("describing the convolution {shape}"), status);
        let Descriptors { x, w, y } = &mut made.descriptors;
        // SAFETY: the descriptors' places are ours; each is made before it is set.
        unsafe {
            check(sys::cudnnCreateTensorDescriptor(x))?;
            check(sys::cudnnSetTensor4dDescriptor(*x, format, kind, n, inputs, height, width))?;
            check(sys::cudnnCreateTensorDescriptor(y))?;
            check(sys::cudnnSetTensor4dDescriptor(*y, format, kind, n, outputs, out_height, out_width))?;
            check(sys::cudnnCreateFilterDescriptor(w))?;
            check(sys::cudnnSetFilter4dDescriptor(
                *w,
                kind,
                format,
                outputs,
                inputs / groups,
                rows,
                columns,
            ))?;
            let operations =
                [&mut made.forward.operation, &mut made.data.operation, &mut made.filter.operation];
            for operation in operations {
                check(sys::cudnnCreateConvolutionDescriptor(operation))?;
                let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
                let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
                check(sys::cudnnSetConvolution2dDescriptor(
                    *operation, above, left, down, right, 1, 1, mode, sums,
                ))?;
                check(sys::cudnnSetConvolutionGroupCount(*operation, groups))?;
                check(sys::cudnnSetConvolutionMathType(*operation, math_of(dnn.precision)))?;
            }
        }
        Ok(made)
    }

    /// Whether cuDNN has been asked for an algorithm for a direction.
    pub(super) fn was_asked<D: Direction>(&self) -> bool {
        D::tuned(self).asked
    }

    /// Whether a direction has an algorithm.
    pub(super) fn has<D: Direction>(&self) -> bool {
        D::tuned(self).chosen.is_some()
    }

    /// Bytes that the most demanding algorithm needs.
    pub(super) fn workspace(&self) -> usize {
        let Self { forward, data, filter, .. } = self;
        let wanted = [
            forward.chosen.map(|chosen| chosen.workspace),
            data.chosen.map(|chosen| chosen.workspace),
            filter.chosen.map(|chosen| chosen.workspace),
        ];
        wanted.into_iter().flatten().max().unwrap_or(0)
    }

    /// The shape as one word.
    pub(super) fn key(&self) -> String {
        let ConvolutionShape { n, height, width, in_channels, out_channels, groups, .. } = self.shape;
        let ConvolutionShape {
            kernel: [rows, columns], stride: [down, right], padding: [above, left], ..
        } = self.shape;
        format!(
            "{n}.{height}.{width}.{in_channels}-{out_channels}-{rows}.{columns}-{down}.{right}-{above}.{left}-{groups}"
        )
    }

    /// cuDNN's numbers for the algorithm chosen for a direction and for its arithmetic.
    pub(super) fn chosen<D: Direction>(&self) -> Option<Numbers> {
        D::tuned(self).chosen.map(|Chosen { number, math, .. }| (number, math as u32))
    }

    /// Chooses the algorithm for a direction, if there is one: the one with these numbers if it works here, else by `choice`. An algorithm
    /// counts as working once it has run. The direction's output is overwritten.
    pub(super) fn choose<D: Direction>(
        &mut self,
        (gpu, dnn): (&Gpu, &Dnn),
        choice: Choice,
        known: Option<Numbers>,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<(), EngineError> {
        let found = match known {
            Some(known) => self.known::<D>((gpu, dnn), known, at, workspace)?,
            None => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => self.search::<D>((gpu, dnn), choice, at, workspace)?,
        };
        if let Some(chosen) = found {
            self.set_math::<D>(chosen.math)?;
        }
        let tuned = D::tuned_mut(self);
        tuned.asked = true;
        tuned.chosen = found;
        Ok(())
    }

    /// The algorithm with these numbers, if cuDNN lists it and it works.
    fn known<D: Direction>(
        &self,
        (gpu, dnn): (&Gpu, &Dnn),
        known: Numbers,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<Option<Chosen<D::Algorithm>>, EngineError> {
        for listed in self.list::<D>(dnn)? {
            if listed.can_be_used(dnn.precision, Choice::Measured)
                && let Some(ready) = self.ready::<D>(dnn, &listed)
                && (ready.number, ready.math as u32) == known
                && self.start::<D>(gpu, dnn, &ready, at, workspace).and_then(|()| gpu.wait()).is_ok()
            {
                return Ok(Some(ready));
            }
        }
        Ok(None)
    }

    /// Tries every algorithm that cuDNN lists for a direction, and reports which of them would be chosen. The previous choice stays.
    pub(super) fn survey<D: Direction>(
        &self,
        (gpu, dnn): (&Gpu, &Dnn),
        choice: Choice,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<Vec<Tried>, EngineError> {
        let chosen = self.search::<D>((gpu, dnn), choice, at, workspace)?;
        let mut all = Vec::new();
        for listed in self.list::<D>(dnn)? {
            let Listed { algorithm, math, status, deterministic, .. } = listed;
            let ready = self.ready::<D>(dnn, &listed);
            let ran = match &ready {
                Some(ready) if status == CUDNN_STATUS_SUCCESS => {
                    Some(self.measure::<D>(gpu, dnn, ready, at, workspace))
                }
                _ => None,
            };
            all.push(Tried {
                direction: D::NAME,
                algorithm: format!("{algorithm:?}"),
                math: format!("{math:?}"),
                status: match &ran {
                    Some(Err(error)) => error.to_string(),
                    _ => format!("{status:?}"),
                },
                workspace: ready.map(|ready| ready.workspace),
                deterministic,
                can_be_used: listed.can_be_used(dnn.precision, choice),
                seconds: ran.and_then(Result::ok),
                chosen: ready.is_some() && ready == chosen,
            });
        }
        if let Some(chosen) = D::tuned(self).chosen {
            self.set_math::<D>(chosen.math)?;
        }
        Ok(all)
    }

    /// Runs a direction with the chosen algorithm.
    pub(super) fn run<D: Direction>(
        &self,
        gpu: &Gpu,
        dnn: &Dnn,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<(), EngineError> {
        let chosen = D::tuned(self).chosen;
        let chosen = chosen.ok_or_else(|| failed("a convolution", "no algorithm was chosen"))?;
        self.start::<D>(gpu, dnn, &chosen, at, workspace)
    }

    fn start<D: Direction>(
        &self,
        gpu: &Gpu,
        dnn: &Dnn,
        chosen: &Chosen<D::Algorithm>,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<(), EngineError> {
        assert!(chosen.workspace <= workspace.bytes(), "a workspace that is too small");
        let (of, operation) = (self.descriptors, D::tuned(self).operation);
        // SAFETY: descriptors were made, the workspace has room.
        let status = unsafe {
            D::start(dnn.handle, of, operation, chosen.algorithm, at, (workspace.address(), chosen.workspace))
        };
        let what = || format!("the convolution {} {} by {:?}", self.shape, D::NAME, chosen.algorithm);
        checked(what, status)?;
        gpu.mark(D::KERNEL, |element| self.shape.len() * element)
    }

    /// The algorithm by `choice` among those that are listed and work.
    fn search<D: Direction>(
        &self,
        (gpu, dnn): (&Gpu, &Dnn),
        choice: Choice,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<Option<Chosen<D::Algorithm>>, EngineError> {
        let mut candidates = self.list::<D>(dnn)?;
        candidates.retain(|listed| listed.can_be_used(dnn.precision, choice));
        match choice {
            Choice::Deterministic => {
                // Stable: otherwise in cuDNN's order.
                candidates.sort_by_key(|listed| listed.algorithm != D::DETERMINISTIC);
            }
            Choice::Measured if dnn.precision == Precision::F32 => {
                candidates.sort_by_key(|listed| listed.math != CUDNN_FMA_MATH);
            }
            Choice::Measured => {}
        }
        let (mut best, mut working) = (None, 0);
        for listed in candidates {
            let Some(ready) = self.ready::<D>(dnn, &listed) else { continue };
            let Ok(seconds) = self.measure::<D>(gpu, dnn, &ready, at, workspace) else { continue };
            working += 1;
            if best.is_none_or(|(fastest, _)| seconds < fastest) {
                best = Some((seconds, ready));
            }
            if choice == Choice::Deterministic || working == MEASURED {
                break;
            }
        }
        Ok(best.map(|(_, ready)| ready))
    }

    /// Seconds of an algorithm: the fastest of some runs.
    fn measure<D: Direction>(
        &self,
        gpu: &Gpu,
        dnn: &Dnn,
        ready: &Chosen<D::Algorithm>,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<f64, EngineError> {
        self.set_math::<D>(ready.math)?;
        let run = || self.start::<D>(gpu, dnn, ready, at, workspace);
        run()?;
        gpu.wait()?;
        let mut fastest = f64::INFINITY;
        for _ in 0..TRIALS {
            fastest = fastest.min(gpu.time(run)?);
        }
        Ok(fastest)
    }

    /// What cuDNN lists, best first; empty if it has nothing for this shape.
    fn list<D: Direction>(&self, dnn: &Dnn) -> Result<Vec<Listed<D::Algorithm>>, EngineError> {
        // All codes of the same thousand have one meaning.
        const UNSUPPORTED: u32 = CUDNN_STATUS_NOT_SUPPORTED as u32 / 1000;
        let operation = D::tuned(self).operation;
        self.set_math::<D>(math_of(dnn.precision))?;
        let mut found = 0;
        // SAFETY: entries are plain numbers; zeros are values of each.
        let mut list: [D::Entry; ENTRIES] = unsafe { std::mem::zeroed() };
        // SAFETY: descriptors were made, the list has room for as many as are asked for.
        let status = unsafe {
            D::list(dnn.handle, self.descriptors, operation, ENTRIES as c_int, &mut found, list.as_mut_ptr())
        };
        if status as u32 / 1000 == UNSUPPORTED {
            return Ok(Vec::new());
        }
        checked(|| format!("choosing how to compute the convolution {} {}", self.shape, D::NAME), status)?;
        Ok(list[..(found as usize).min(ENTRIES)].iter().map(D::read).collect())
    }

    /// An algorithm with its workspace, if that is not too large, and its arithmetic set.
    fn ready<D: Direction>(&self, dnn: &Dnn, listed: &Listed<D::Algorithm>) -> Option<Chosen<D::Algorithm>> {
        let &Listed { algorithm, number, math, .. } = listed;
        // In f32 the arithmetic is always FMA, whatever the list calls it.
        let math = if dnn.precision == Precision::F32 { CUDNN_FMA_MATH } else { math };
        self.set_math::<D>(math).ok()?;
        let mut workspace = 0;
        // SAFETY: all descriptors were made; the answer's place is ours.
        let status = unsafe {
            D::bytes(dnn.handle, self.descriptors, D::tuned(self).operation, algorithm, &mut workspace)
        };
        (status == CUDNN_STATUS_SUCCESS && workspace <= MOST_WORKSPACE).then_some(Chosen {
            number,
            algorithm,
            math,
            workspace,
        })
    }

    fn set_math<D: Direction>(&self, math: sys::cudnnMathType_t) -> Result<(), EngineError> {
        // SAFETY: the descriptor was made.
        let status = unsafe { sys::cudnnSetConvolutionMathType(D::tuned(self).operation, math) };
        checked(|| format!("choosing the arithmetic of the convolution {}", self.shape), status)
    }
}

/// The arithmetic to request. FMA: no TF32 anywhere, which cuDNN uses by default where it helps.
fn math_of(precision: Precision) -> sys::cudnnMathType_t {
    match precision {
        Precision::F32 => CUDNN_FMA_MATH,
        Precision::Tf32 => CUDNN_DEFAULT_MATH,
        Precision::Bf16 => CUDNN_TENSOR_OP_MATH,
    }
}

impl Drop for Convolution2d {
    fn drop(&mut self) {
        if self.context.make_current().is_err() {
            return;
        }
        let operations = [self.forward.operation, self.data.operation, self.filter.operation];
        let Descriptors { x, w, y } = self.descriptors;
        // SAFETY: each was made in `new` or is null, and is destroyed once.
        unsafe {
            for operation in operations.into_iter().filter(|operation| !operation.is_null()) {
                let _ = sys::cudnnDestroyConvolutionDescriptor(operation);
            }
            for tensor in [x, y].into_iter().filter(|tensor| !tensor.is_null()) {
                let _ = sys::cudnnDestroyTensorDescriptor(tensor);
            }
            if !w.is_null() {
                let _ = sys::cudnnDestroyFilterDescriptor(w);
            }
        }
    }
}
