//! The GPU: memory, kernels, graphs of them, matrix products and convolutions, as safe as they can be.
//!
//! All `unsafe` of the engine is here. An address in the GPU's memory is a number to the host: that a kernel gets right ones is the
//! plan's duty, and a wrong one is reported by the driver as an error of a later call. What the host must do right
//! for its own sake is argued at each call.
#![expect(unsafe_code, reason = "NVIDIA's libraries are C")]

use super::launch::{self, Address, Grid};
use crate::device::explained;
use crate::{EngineError, Precision};
use candle_core::cuda_backend::cudarc::cublas::sys as blas;
use candle_core::cuda_backend::cudarc::cudnn::sys as dnn;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use std::ffi::{CString, c_int, c_void};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ptr;
use std::rc::Rc;

/// Bytes where the driver reads whole words of them.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// Machine code for the cards of compute capability 8.0 and 9.0, and PTX for later ones.
static KERNELS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// Bytes that cuBLAS may use beside its operands; NVIDIA's recommendation for Hopper.
const BLAS_WORKSPACE: usize = 32 << 20;

/// Bytes that a convolution may use beside its operands.
pub(super) const DNN_WORKSPACE: usize = 256 << 20;

/// An error's own name, or what it means where that is known.
fn failed(what: &str, code: impl Debug) -> EngineError {
    EngineError::Device(format!("{what}: {}", explained(&format!("{code:?}"))))
}

fn driver<T>(what: &str, outcome: Result<T, result::DriverError>) -> Result<T, EngineError> {
    outcome.map_err(|error| failed(what, error))
}

fn products(what: &str, status: blas::cublasStatus_t) -> Result<(), EngineError> {
    match status {
        blas::cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        status => Err(failed(what, status)),
    }
}

fn convolutions(what: &str, status: dnn::cudnnStatus_t) -> Result<(), EngineError> {
    match status {
        dnn::cudnnStatus_t::CUDNN_STATUS_SUCCESS => Ok(()),
        status => Err(failed(what, status)),
    }
}

/// Types that any bytes are a value of, and that have no padding that is read.
pub(super) trait Plain: Copy + Default {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for launch::Control {}
impl Plain for launch::Group {}

/// The device's primary context, which candle uses as well.
#[derive(Debug)]
struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

impl Context {
    fn make_current(&self) -> Result<(), EngineError> {
        // SAFETY: the context is retained as long as `self` lives.
        driver("choosing the GPU", unsafe { result::ctx::set_current(self.context) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained in `Gpu::open`, once. An error at the end is of no use to anybody.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Memory of the GPU, freed when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    context: Rc<Context>,
    address: Address,
    bytes: usize,
}

impl Buffer {
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// The address of number `index` of `width` bytes each.
    pub(super) fn at(&self, index: usize, width: usize) -> Address {
        debug_assert!(index * width <= self.bytes);
        self.address + (index * width) as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: allocated in `Gpu::allocate`, freed only here; the driver waits for kernels that use it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// A kernel that takes a `P`.
#[derive(Debug)]
pub(super) struct Kernel<P> {
    function: sys::CUfunction,
    name: &'static str,
    parameters: PhantomData<fn(P)>,
}

/// Kernels, products and convolutions of one step, to be started at once.
#[derive(Debug)]
pub(super) struct Graph {
    context: Rc<Context>,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: both were made in `Gpu::capture` and are destroyed only here.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
            let _ = unsafe { result::graph::destroy(self.graph) };
        }
    }
}

/// Whether a matrix is read as it lies or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    AsIs,
    Transposed,
}

/// `c = a * b` of row-major matrices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) a: (Address, Read),
    pub(super) b: (Address, Read),
    pub(super) c: Address,
    /// Rows of `c`, its columns, and the length of each sum.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) depth: usize,
}

/// The name of the GPU of that number.
pub(crate) fn card_name(ordinal: usize) -> Result<String, EngineError> {
    driver("starting NVIDIA's driver", result::init())?;
    let device = driver("finding the GPU", result::device::get(ordinal as c_int))?;
    driver("asking for the GPU's name", result::device::get_name(device))
}

/// One GPU with a stream of work, used from the thread that opened it.
#[derive(Debug)]
pub(super) struct Gpu {
    context: Rc<Context>,
    stream: sys::CUstream,
    module: sys::CUmodule,
    blas: blas::cublasHandle_t,
    dnn: dnn::cudnnHandle_t,
    /// Of cuBLAS; kept until its handle is gone.
    workspace: Option<Buffer>,
    name: String,
    precision: Precision,
}

impl Gpu {
    /// Opens the GPU of that number.
    ///
    /// # Errors
    /// [`EngineError::Device`] naming the library or the call that failed.
    pub(super) fn open(ordinal: usize, precision: Precision) -> Result<Self, EngineError> {
        driver("starting NVIDIA's driver", result::init())?;
        let device = driver("finding the GPU", result::device::get(ordinal as c_int))?;
        let name = driver("asking for the GPU's name", result::device::get_name(device))?;
        // SAFETY: the device is the driver's own answer.
        let context = driver("opening the GPU", unsafe { result::primary_ctx::retain(device) })?;
        let context = Rc::new(Context { device, context });
        context.make_current()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let mut gpu = Self {
            context,
            stream: driver("making a stream", stream)?,
            module: ptr::null_mut(),
            blas: ptr::null_mut(),
            dnn: ptr::null_mut(),
            workspace: None,
            name,
            precision,
        };
        // SAFETY: a fatbin that nvcc made, which says itself how long it is.
        gpu.module = driver("loading the kernels", unsafe {
            result::module::load_data(KERNELS.0.as_ptr().cast::<c_void>())
        })?;
        // SAFETY: the handles' places are ours and outlive the calls; the stream lives as long as the handles.
        unsafe {
            products("starting cuBLAS", blas::cublasCreate_v2(&mut gpu.blas))?;
            products("starting cuBLAS", blas::cublasSetStream_v2(gpu.blas, gpu.stream.cast()))?;
            let mode = blas::cublasMath_t::CUBLAS_DEFAULT_MATH;
            products("starting cuBLAS", blas::cublasSetMathMode(gpu.blas, mode))?;
            convolutions("starting cuDNN", dnn::cudnnCreate(&mut gpu.dnn))?;
            convolutions("starting cuDNN", dnn::cudnnSetStream(gpu.dnn, gpu.stream.cast()))?;
        }
        // A workspace of its own, so that a captured product needs no memory of anybody else's.
        let workspace = gpu.allocate(BLAS_WORKSPACE)?;
        // SAFETY: the workspace is freed after the handle.
        let status =
            unsafe { blas::cublasSetWorkspace_v2(gpu.blas, pointer(workspace.address()), BLAS_WORKSPACE) };
        gpu.workspace = Some(workspace);
        products("giving cuBLAS a workspace", status)?;
        Ok(gpu)
    }

    /// The card's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes this GPU the calling thread's: another engine may have chosen another.
    pub(super) fn make_current(&self) -> Result<(), EngineError> {
        self.context.make_current()
    }

    /// The kernel of that name.
    pub(super) fn kernel<P>(&self, name: &'static str) -> Result<Kernel<P>, EngineError> {
        let c_name = CString::new(name).map_err(|error| failed(name, error))?;
        // SAFETY: the module is loaded.
        let function = driver(name, unsafe { result::module::get_function(self.module, c_name) })?;
        Ok(Kernel { function, name, parameters: PhantomData })
    }

    /// Memory of zeros; of no bytes, a little all the same.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Buffer, EngineError> {
        let bytes = bytes.max(16);
        let what = || format!("asking for {} MiB of the GPU's memory", bytes.div_ceil(1 << 20));
        // SAFETY: the address is only used through the buffer.
        let address = driver(&what(), unsafe { result::malloc_sync(bytes) })?;
        let buffer = Buffer { context: Rc::clone(&self.context), address, bytes };
        // SAFETY: the buffer is as long, and in use by nobody yet.
        driver("clearing memory", unsafe { result::memset_d8_async(address, 0, bytes, self.stream) })?;
        Ok(buffer)
    }

    /// Copies to the GPU, `offset` bytes into the buffer; `values` may be changed afterwards.
    pub(super) fn upload<T: Plain>(
        &self,
        buffer: &Buffer,
        offset: usize,
        values: &[T],
    ) -> Result<(), EngineError> {
        assert!(offset + size_of_val(values) <= buffer.bytes, "an upload beyond the end of a buffer");
        // SAFETY: the range was checked, and the copy has ended when this returns.
        driver("copying to the GPU", unsafe {
            result::memcpy_htod_async(buffer.address + offset as u64, values, self.stream)
        })?;
        self.wait()
    }

    /// Copies from the GPU once all work before is done, `offset` bytes into the buffer.
    pub(super) fn download<T: Plain>(
        &self,
        buffer: &Buffer,
        offset: usize,
        len: usize,
    ) -> Result<Vec<T>, EngineError> {
        let mut values = vec![T::default(); len];
        assert!(offset + size_of_val(&*values) <= buffer.bytes, "a download beyond the end of a buffer");
        // SAFETY: the range was checked, any bytes are a `T`, and the copy has ended when this returns.
        driver("copying from the GPU", unsafe {
            result::memcpy_dtoh_async(&mut values, buffer.address + offset as u64, self.stream)
        })?;
        self.wait()?;
        Ok(values)
    }

    /// Copies between two buffers of the same length.
    pub(super) fn copy(&self, from: &Buffer, to: &Buffer) -> Result<(), EngineError> {
        assert_eq!(from.bytes, to.bytes, "a copy between buffers of different lengths");
        // SAFETY: both are as long.
        driver("copying on the GPU", unsafe {
            result::memcpy_dtod_async(to.address, from.address, from.bytes, self.stream)
        })
    }

    /// Sets a buffer to zeros.
    pub(super) fn clear(&self, buffer: &Buffer) -> Result<(), EngineError> {
        // SAFETY: the buffer is as long.
        driver("clearing memory", unsafe {
            result::memset_d8_async(buffer.address, 0, buffer.bytes, self.stream)
        })
    }

    /// Waits until all work is done.
    pub(super) fn wait(&self) -> Result<(), EngineError> {
        // SAFETY: the stream lives as long as `self`.
        driver("computing on the GPU", unsafe { result::stream::synchronize(self.stream) })
    }

    /// Starts a kernel.
    pub(super) fn launch<P: Copy>(
        &self,
        kernel: &Kernel<P>,
        grid: Grid,
        parameters: P,
    ) -> Result<(), EngineError> {
        let mut parameters = parameters;
        let mut arguments = [ptr::from_mut(&mut parameters).cast::<c_void>()];
        let ([x, y], [columns, rows]) = (grid.blocks, grid.threads);
        // SAFETY: the kernel takes one `P` by value (a test compares sizes with the device's compiler), which the driver copies.
        driver(kernel.name, unsafe {
            result::launch_kernel(
                kernel.function,
                (x, y, 1),
                (columns, rows, 1),
                0,
                self.stream,
                &mut arguments,
            )
        })
    }

    /// Records what `enqueue` starts, instead of doing it.
    pub(super) fn capture(
        &self,
        enqueue: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<Graph, EngineError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        driver("recording a step", unsafe { result::stream::begin_capture(self.stream, mode) })?;
        let outcome = enqueue();
        // SAFETY: as above; whatever happened, the recording ends here.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        outcome?;
        let graph = driver("recording a step", graph)?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made.
        match unsafe { result::graph::instantiate(graph, flags) } {
            Ok(executable) => Ok(Graph { context: Rc::clone(&self.context), graph, executable }),
            Err(error) => {
                // SAFETY: the graph has no other owner yet.
                let _ = unsafe { result::graph::destroy(graph) };
                Err(failed("preparing a recorded step", error))
            }
        }
    }

    /// Starts a recorded step.
    pub(super) fn replay(&self, graph: &Graph) -> Result<(), EngineError> {
        // SAFETY: both live.
        driver("starting a recorded step", unsafe { result::graph::launch(graph.executable, self.stream) })
    }

    /// Seconds that the GPU takes for `work`, by its own clock.
    pub(super) fn time(&self, work: impl FnOnce() -> Result<(), EngineError>) -> Result<f64, EngineError> {
        let event = || driver("making a clock", result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let (start, end) = (event()?, event()?);
        let measured = (|| {
            // SAFETY: stream and events live; elapsed time is asked for after both events.
            driver("measuring", unsafe { result::event::record(start, self.stream) })?;
            work()?;
            driver("measuring", unsafe { result::event::record(end, self.stream) })?;
            self.wait()?;
            driver("measuring", unsafe { result::event::elapsed(start, end) })
        })();
        for event in [start, end] {
            // SAFETY: made above, destroyed once.
            let _ = unsafe { result::event::destroy(event) };
        }
        Ok(f64::from(measured?) / 1e3)
    }

    /// A matrix product in the engine's precision.
    pub(super) fn product(&self, product: &Product) -> Result<(), EngineError> {
        use blas::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        use blas::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
        let (kind, compute) = match self.precision {
            Precision::F32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F),
            Precision::Tf32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32),
            Precision::Bf16 => (CUDA_R_16BF, CUBLAS_COMPUTE_32F),
        };
        let &Product { a: (a, read_a), b: (b, read_b), c, rows, columns, depth } = product;
        let operation = |read| match read {
            Read::AsIs => blas::cublasOperation_t::CUBLAS_OP_N,
            Read::Transposed => blas::cublasOperation_t::CUBLAS_OP_T,
        };
        // Floats between the starts of two rows as they lie.
        let stride_a = if read_a == Read::AsIs { depth } else { rows };
        let stride_b = if read_b == Read::AsIs { columns } else { depth };
        let (one, zero) = (1.0f32, 0.0f32);
        // cuBLAS has columns where we have rows: the transposed product, c' = b' * a'.
        // SAFETY: the factors are read during the call; the rest are addresses of the GPU.
        products("a matrix product", unsafe {
            blas::cublasGemmEx(
                self.blas,
                operation(read_b),
                operation(read_a),
                columns as c_int,
                rows as c_int,
                depth as c_int,
                ptr::from_ref(&one).cast(),
                pointer(b).cast_const(),
                kind,
                stride_b as c_int,
                pointer(a).cast_const(),
                kind,
                stride_a as c_int,
                ptr::from_ref(&zero).cast(),
                pointer(c),
                kind,
                columns as c_int,
                compute,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        })
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.make_current().is_err() {
            return;
        }
        // SAFETY: each was made in `Gpu::open` or is null, is destroyed once, and only after all work is done.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            if !self.dnn.is_null() {
                let _ = dnn::cudnnDestroy(self.dnn);
            }
            if !self.blas.is_null() {
                let _ = blas::cublasDestroy_v2(self.blas);
            }
            if !self.module.is_null() {
                let _ = result::module::unload(self.module);
            }
            let _ = result::stream::destroy(self.stream);
        }
    }
}

/// An address as the libraries take it.
fn pointer(address: Address) -> *mut c_void {
    ptr::without_provenance_mut(address as usize)
}

/// What a convolution reads and writes, and the sides of it all.
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
    /// cuDNN's own order of preference, of those that give the same bits every time: a measurement would not.
    Deterministic,
}

/// A 2-D convolution of one shape by cuDNN, channels last, weights `(out, rows, columns, in)`, with an algorithm for each direction,
/// where cuDNN has one.
#[derive(Debug)]
pub(super) struct Convolution2d {
    context: Rc<Context>,
    x: dnn::cudnnTensorDescriptor_t,
    w: dnn::cudnnFilterDescriptor_t,
    y: dnn::cudnnTensorDescriptor_t,
    /// One for each direction: an algorithm comes with a kind of arithmetic.
    operations: [dnn::cudnnConvolutionDescriptor_t; 3],
    forward: Option<(dnn::cudnnConvolutionFwdAlgo_t, usize)>,
    data: Option<(dnn::cudnnConvolutionBwdDataAlgo_t, usize)>,
    filter: Option<(dnn::cudnnConvolutionBwdFilterAlgo_t, usize)>,
    /// Directions of which it is known whether there is an algorithm.
    asked: [bool; 3],
}

/// Directions of a convolution.
pub(super) const FORWARD: usize = 0;
pub(super) const DATA: usize = 1;
pub(super) const FILTER: usize = 2;

/// The first algorithm of a list, best first, that may be used, if there is one: its number, the bytes it wants, and its arithmetic.
macro_rules! choose {
    ($results:expr, $precision:expr, $choice:expr, $bytes:expr) => {{
        $results.iter().find_map(|result| {
            use dnn::cudnnMathType_t::{CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION};
            let tensor_cores = [CUDNN_TENSOR_OP_MATH, CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION];
            let bytes = $bytes(result.algo)?;
            let good = result.status == dnn::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && bytes <= DNN_WORKSPACE
                && ($choice == Choice::Measured
                    || result.determinism == dnn::cudnnDeterminism_t::CUDNN_DETERMINISTIC)
                && ($precision != Precision::F32 || !tensor_cores.contains(&result.mathType));
            good.then_some((result.algo, bytes, result.mathType))
        })
    }};
}

/// Whether cuDNN lists algorithms: it may say that there are none for a shape.
fn listed(what: &str, status: dnn::cudnnStatus_t) -> Result<bool, EngineError> {
    // Of each thousand of codes, all have one meaning.
    const UNSUPPORTED: u32 = dnn::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED as u32 / 1000;
    if status as u32 / 1000 == UNSUPPORTED {
        return Ok(false);
    }
    convolutions(what, status).map(|()| true)
}

/// More than there are.
const ALGORITHMS: usize = 16;

impl Convolution2d {
    pub(super) fn new(gpu: &Gpu, shape: ConvolutionShape) -> Result<Self, EngineError> {
        use dnn::cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};
        let mut made = Self {
            context: Rc::clone(&gpu.context),
            x: ptr::null_mut(),
            w: ptr::null_mut(),
            y: ptr::null_mut(),
            operations: [ptr::null_mut(); 3],
            forward: None,
            data: None,
            filter: None,
            asked: [false; 3],
        };
        let what = "describing a convolution";
        // FMA: no TF32 anywhere. By default cuDNN takes TF32 where it helps.
        let (kind, math) = match gpu.precision {
            Precision::F32 => (dnn::cudnnDataType_t::CUDNN_DATA_FLOAT, CUDNN_FMA_MATH),
            Precision::Tf32 => (dnn::cudnnDataType_t::CUDNN_DATA_FLOAT, CUDNN_DEFAULT_MATH),
            Precision::Bf16 => (dnn::cudnnDataType_t::CUDNN_DATA_BFLOAT16, CUDNN_TENSOR_OP_MATH),
        };
        let format = dnn::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
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
        // SAFETY: the descriptors' places are ours; each is made before it is set.
        unsafe {
            convolutions(what, dnn::cudnnCreateTensorDescriptor(&mut made.x))?;
            convolutions(
                what,
                dnn::cudnnSetTensor4dDescriptor(made.x, format, kind, n, inputs, height, width),
            )?;
            convolutions(what, dnn::cudnnCreateTensorDescriptor(&mut made.y))?;
            let set =
                dnn::cudnnSetTensor4dDescriptor(made.y, format, kind, n, outputs, out_height, out_width);
            convolutions(what, set)?;
            convolutions(what, dnn::cudnnCreateFilterDescriptor(&mut made.w))?;
            let of_group = inputs / groups;
            let set = dnn::cudnnSetFilter4dDescriptor(made.w, kind, format, outputs, of_group, rows, columns);
            convolutions(what, set)?;
            for operation in &mut made.operations {
                convolutions(what, dnn::cudnnCreateConvolutionDescriptor(operation))?;
                let mode = dnn::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
                let sums = dnn::cudnnDataType_t::CUDNN_DATA_FLOAT;
                let set = dnn::cudnnSetConvolution2dDescriptor(
                    *operation, above, left, down, right, 1, 1, mode, sums,
                );
                convolutions(what, set)?;
                convolutions(what, dnn::cudnnSetConvolutionGroupCount(*operation, groups))?;
                convolutions(what, dnn::cudnnSetConvolutionMathType(*operation, math))?;
            }
        }
        Ok(made)
    }

    /// Whether cuDNN was asked for an algorithm: forward, and in the two directions backward.
    pub(super) fn asked(&self) -> [bool; 3] {
        self.asked
    }

    /// Whether a direction has an algorithm.
    pub(super) fn has(&self, direction: usize) -> bool {
        [self.forward.is_some(), self.data.is_some(), self.filter.is_some()][direction]
    }

    /// Bytes that the algorithm wants which wants most.
    pub(super) fn workspace(&self) -> usize {
        let [forward, data, filter] =
            [self.forward.map(|of| of.1), self.data.map(|of| of.1), self.filter.map(|of| of.1)];
        forward.max(data).max(filter).unwrap_or(0)
    }

    /// Takes over the algorithms of another batch size, as far as cuDNN can use them here.
    pub(super) fn adopt(&mut self, gpu: &Gpu, other: &Self) {
        if let Some((algorithm, _)) = other.forward {
            self.take_math(other, FORWARD);
            self.forward = self.forward_bytes(gpu, algorithm).map(|bytes| (algorithm, bytes));
            self.asked[FORWARD] = self.forward.is_some();
        }
        if let Some((algorithm, _)) = other.data {
            self.take_math(other, DATA);
            self.data = self.data_bytes(gpu, algorithm).map(|bytes| (algorithm, bytes));
            self.asked[DATA] = self.data.is_some();
        }
        if let Some((algorithm, _)) = other.filter {
            self.take_math(other, FILTER);
            self.filter = self.filter_bytes(gpu, algorithm).map(|bytes| (algorithm, bytes));
            self.asked[FILTER] = self.filter.is_some();
        }
    }

    fn take_math(&self, other: &Self, direction: usize) {
        let mut math = dnn::cudnnMathType_t::CUDNN_DEFAULT_MATH;
        // SAFETY: both descriptors were made. An arithmetic that cannot be used shows in the bytes that are asked for next.
        unsafe {
            if dnn::cudnnGetConvolutionMathType(other.operations[direction], &mut math)
                == dnn::cudnnStatus_t::CUDNN_STATUS_SUCCESS
            {
                let _ = dnn::cudnnSetConvolutionMathType(self.operations[direction], math);
            }
        }
    }

    /// Keeps the arithmetic that the chosen algorithm was found with. In f32 it is set for good.
    fn set_math(&self, gpu: &Gpu, direction: usize, math: dnn::cudnnMathType_t) -> Result<(), EngineError> {
        if gpu.precision == Precision::F32 {
            return Ok(());
        }
        // SAFETY: the descriptor was made.
        convolutions("choosing an arithmetic", unsafe {
            dnn::cudnnSetConvolutionMathType(self.operations[direction], math)
        })
    }

    fn forward_bytes(&self, gpu: &Gpu, algorithm: dnn::cudnnConvolutionFwdAlgo_t) -> Option<usize> {
        let mut bytes = 0;
        // SAFETY: all descriptors were made; the answer's place is ours.
        let status = unsafe {
            dnn::cudnnGetConvolutionForwardWorkspaceSize(
                gpu.dnn,
                self.x,
                self.w,
                self.operations[FORWARD],
                self.y,
                algorithm,
                &mut bytes,
            )
        };
        (status == dnn::cudnnStatus_t::CUDNN_STATUS_SUCCESS && bytes <= DNN_WORKSPACE).then_some(bytes)
    }

    fn data_bytes(&self, gpu: &Gpu, algorithm: dnn::cudnnConvolutionBwdDataAlgo_t) -> Option<usize> {
        let mut bytes = 0;
        // SAFETY: as above.
        let status = unsafe {
            dnn::cudnnGetConvolutionBackwardDataWorkspaceSize(
                gpu.dnn,
                self.w,
                self.y,
                self.operations[DATA],
                self.x,
                algorithm,
                &mut bytes,
            )
        };
        (status == dnn::cudnnStatus_t::CUDNN_STATUS_SUCCESS && bytes <= DNN_WORKSPACE).then_some(bytes)
    }

    fn filter_bytes(&self, gpu: &Gpu, algorithm: dnn::cudnnConvolutionBwdFilterAlgo_t) -> Option<usize> {
        let mut bytes = 0;
        // SAFETY: as above.
        let status = unsafe {
            dnn::cudnnGetConvolutionBackwardFilterWorkspaceSize(
                gpu.dnn,
                self.x,
                self.y,
                self.operations[FILTER],
                self.w,
                algorithm,
                &mut bytes,
            )
        };
        (status == dnn::cudnnStatus_t::CUDNN_STATUS_SUCCESS && bytes <= DNN_WORKSPACE).then_some(bytes)
    }

    /// Chooses the algorithm forward, if there is one. Measuring overwrites the results.
    pub(super) fn choose_forward(
        &mut self,
        gpu: &Gpu,
        choice: Choice,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<(), EngineError> {
        let what = "choosing a convolution";
        let mut found = 0;
        // SAFETY: a list of plain numbers; zeros are values of each.
        let mut list: [dnn::cudnnConvolutionFwdAlgoPerf_t; ALGORITHMS] = unsafe { std::mem::zeroed() };
        let (most, operation) = (ALGORITHMS as c_int, self.operations[FORWARD]);
        // SAFETY: descriptors were made, the list has room for as many as are asked for, the workspace is as large.
        let status = unsafe {
            match choice {
                Choice::Measured => dnn::cudnnFindConvolutionForwardAlgorithmEx(
                    gpu.dnn,
                    self.x,
                    pointer(at.x).cast_const(),
                    self.w,
                    pointer(at.w).cast_const(),
                    operation,
                    self.y,
                    pointer(at.y),
                    most,
                    &mut found,
                    list.as_mut_ptr(),
                    pointer(workspace.address()),
                    workspace.bytes(),
                ),
                Choice::Deterministic => dnn::cudnnGetConvolutionForwardAlgorithm_v7(
                    gpu.dnn,
                    self.x,
                    self.w,
                    operation,
                    self.y,
                    most,
                    &mut found,
                    list.as_mut_ptr(),
                ),
            }
        };
        self.asked[FORWARD] = true;
        if !listed(what, status)? {
            return Ok(());
        }
        let bytes = |algorithm| self.forward_bytes(gpu, algorithm);
        if let Some((algorithm, bytes, math)) = choose!(list[..found as usize], gpu.precision, choice, bytes)
        {
            self.set_math(gpu, FORWARD, math)?;
            self.forward = Some((algorithm, self.forward_bytes(gpu, algorithm).unwrap_or(bytes)));
        }
        Ok(())
    }

    /// Chooses the algorithm for the input's gradient. Measuring overwrites it.
    pub(super) fn choose_data(
        &mut self,
        gpu: &Gpu,
        choice: Choice,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<(), EngineError> {
        let what = "choosing a convolution for the input's gradient";
        let mut found = 0;
        // SAFETY: as in `choose_forward`.
        let mut list: [dnn::cudnnConvolutionBwdDataAlgoPerf_t; ALGORITHMS] = unsafe { std::mem::zeroed() };
        let (most, operation) = (ALGORITHMS as c_int, self.operations[DATA]);
        // SAFETY: as in `choose_forward`.
        let status = unsafe {
            match choice {
                Choice::Measured => dnn::cudnnFindConvolutionBackwardDataAlgorithmEx(
                    gpu.dnn,
                    self.w,
                    pointer(at.w).cast_const(),
                    self.y,
                    pointer(at.y).cast_const(),
                    operation,
                    self.x,
                    pointer(at.x),
                    most,
                    &mut found,
                    list.as_mut_ptr(),
                    pointer(workspace.address()),
                    workspace.bytes(),
                ),
                Choice::Deterministic => dnn::cudnnGetConvolutionBackwardDataAlgorithm_v7(
                    gpu.dnn,
                    self.w,
                    self.y,
                    operation,
                    self.x,
                    most,
                    &mut found,
                    list.as_mut_ptr(),
                ),
            }
        };
        self.asked[DATA] = true;
        if !listed(what, status)? {
            return Ok(());
        }
        let bytes = |algorithm| self.data_bytes(gpu, algorithm);
        if let Some((algorithm, bytes, math)) = choose!(list[..found as usize], gpu.precision, choice, bytes)
        {
            self.set_math(gpu, DATA, math)?;
            self.data = Some((algorithm, self.data_bytes(gpu, algorithm).unwrap_or(bytes)));
        }
        Ok(())
    }

    /// Chooses the algorithm for the weights' gradient. Measuring overwrites it.
    pub(super) fn choose_filter(
        &mut self,
        gpu: &Gpu,
        choice: Choice,
        at: Operands,
        workspace: &Buffer,
    ) -> Result<(), EngineError> {
        let what = "choosing a convolution for the weights' gradient";
        let mut found = 0;
        // SAFETY: as in `choose_forward`.
        let mut list: [dnn::cudnnConvolutionBwdFilterAlgoPerf_t; ALGORITHMS] = unsafe { std::mem::zeroed() };
        let (most, operation) = (ALGORITHMS as c_int, self.operations[FILTER]);
        // SAFETY: as in `choose_forward`.
        let status = unsafe {
            match choice {
                Choice::Measured => dnn::cudnnFindConvolutionBackwardFilterAlgorithmEx(
                    gpu.dnn,
                    self.x,
                    pointer(at.x).cast_const(),
                    self.y,
                    pointer(at.y).cast_const(),
                    operation,
                    self.w,
                    pointer(at.w),
                    most,
                    &mut found,
                    list.as_mut_ptr(),
                    pointer(workspace.address()),
                    workspace.bytes(),
                ),
                Choice::Deterministic => dnn::cudnnGetConvolutionBackwardFilterAlgorithm_v7(
                    gpu.dnn,
                    self.x,
                    self.y,
                    operation,
                    self.w,
                    most,
                    &mut found,
                    list.as_mut_ptr(),
                ),
            }
        };
        self.asked[FILTER] = true;
        if !listed(what, status)? {
            return Ok(());
        }
        let bytes = |algorithm| self.filter_bytes(gpu, algorithm);
        if let Some((algorithm, bytes, math)) = choose!(list[..found as usize], gpu.precision, choice, bytes)
        {
            self.set_math(gpu, FILTER, math)?;
            self.filter = Some((algorithm, self.filter_bytes(gpu, algorithm).unwrap_or(bytes)));
        }
        Ok(())
    }

    /// `y` from `x` and `w`.
    pub(super) fn forward(&self, gpu: &Gpu, at: Operands, workspace: &Buffer) -> Result<(), EngineError> {
        let what = "a convolution";
        let (algorithm, bytes) = self.forward.ok_or_else(|| failed(what, "no algorithm was chosen"))?;
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: descriptors were made, the factors are read during the call, the workspace has room.
        convolutions(what, unsafe {
            dnn::cudnnConvolutionForward(
                gpu.dnn,
                ptr::from_ref(&one).cast(),
                self.x,
                pointer(at.x).cast_const(),
                self.w,
                pointer(at.w).cast_const(),
                self.operations[FORWARD],
                algorithm,
                pointer(workspace.address()),
                bytes,
                ptr::from_ref(&zero).cast(),
                self.y,
                pointer(at.y),
            )
        })
    }

    /// The gradient of `x` from `w` and the gradient of `y`.
    pub(super) fn data(&self, gpu: &Gpu, at: Operands, workspace: &Buffer) -> Result<(), EngineError> {
        let what = "a convolution for the input's gradient";
        let (algorithm, bytes) = self.data.ok_or_else(|| failed(what, "no algorithm was chosen"))?;
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: as in `forward`.
        convolutions(what, unsafe {
            dnn::cudnnConvolutionBackwardData(
                gpu.dnn,
                ptr::from_ref(&one).cast(),
                self.w,
                pointer(at.w).cast_const(),
                self.y,
                pointer(at.y).cast_const(),
                self.operations[DATA],
                algorithm,
                pointer(workspace.address()),
                bytes,
                ptr::from_ref(&zero).cast(),
                self.x,
                pointer(at.x),
            )
        })
    }

    /// The gradient of `w` from `x` and the gradient of `y`.
    pub(super) fn filter(&self, gpu: &Gpu, at: Operands, workspace: &Buffer) -> Result<(), EngineError> {
        let what = "a convolution for the weights' gradient";
        let (algorithm, bytes) = self.filter.ok_or_else(|| failed(what, "no algorithm was chosen"))?;
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: as in `forward`.
        convolutions(what, unsafe {
            dnn::cudnnConvolutionBackwardFilter(
                gpu.dnn,
                ptr::from_ref(&one).cast(),
                self.x,
                pointer(at.x).cast_const(),
                self.y,
                pointer(at.y).cast_const(),
                self.operations[FILTER],
                algorithm,
                pointer(workspace.address()),
                bytes,
                ptr::from_ref(&zero).cast(),
                self.w,
                pointer(at.w),
            )
        })
    }
}

impl Drop for Convolution2d {
    fn drop(&mut self) {
        if self.context.make_current().is_err() {
            return;
        }
        // SAFETY: each was made in `new` or is null, and is destroyed once.
        unsafe {
            for operation in self.operations.into_iter().filter(|operation| !operation.is_null()) {
                let _ = dnn::cudnnDestroyConvolutionDescriptor(operation);
            }
            for tensor in [self.x, self.y].into_iter().filter(|tensor| !tensor.is_null()) {
                let _ = dnn::cudnnDestroyTensorDescriptor(tensor);
            }
            if !self.w.is_null() {
                let _ = dnn::cudnnDestroyFilterDescriptor(self.w);
            }
        }
    }
}

/// The version of cuDNN, such as 91002; 0 where it is not there.
pub(super) fn dnn_version() -> usize {
    // SAFETY: takes nothing.
    unsafe { dnn::cudnnGetVersion() }
}
