//! Matrix products by cuBLAS.
#![expect(unsafe_code, reason = "cuBLAS is a C library")]

use super::driver::{Buffer, Context, Gpu, Stream, exclusive, failed, loaded, pointer};
use super::launch::Address;
use crate::error::EngineError;
use candle_core::cuda_backend::cudarc::cublas::sys;
use pointwise_recipe::Precision;
use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

/// Bytes that cuBLAS may use in addition to its operands; NVIDIA's recommendation for Hopper.
const WORKSPACE: usize = 32 << 20;

/// Sums of 16-bit products stay in f32 even where several blocks share one.
const NO_SHORT_SUMS: sys::cublasMath_t = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;

fn checked(what: impl FnOnce() -> String, status: sys::cublasStatus_t) -> Result<(), EngineError> {
    match status {
        sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        status => Err(match loaded("libcublas.so") {
            // Its code for a missing library is also its code for a GPU that it cannot use.
            Some(path) => {
                EngineError::Device(format!("{}: cuBLAS says {status:?} (loaded from {path})", what()))
            }
            None => failed(&what(), status),
        }),
    }
}

/// Whether a matrix is read as stored or transposed.
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

/// cuBLAS on a GPU's stream.
#[derive(Debug)]
pub(super) struct Blas {
    context: Arc<Context>,
    handle: sys::cublasHandle_t,
    precision: Precision,
    /// Its own, so that a recorded product depends on no other memory. Freed after the handle.
    _workspace: Buffer,
}

impl Blas {
    /// Starts cuBLAS on a stream of the GPU's.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    pub(super) fn new(gpu: &Gpu, stream: Stream, precision: Precision) -> Result<Self, EngineError> {
        let mut made = Self {
            context: Arc::clone(&gpu.context),
            handle: ptr::null_mut(),
            precision,
            _workspace: gpu.allocate(WORKSPACE)?,
        };
        let workspace = pointer(made._workspace.address());
        let what = || "starting cuBLAS".to_owned();
        let turn = exclusive();
        // SAFETY: the handle's place is ours and outlives the calls; the stream and the workspace live as long as the handle.
        unsafe {
            checked(what, sys::cublasCreate_v2(&mut made.handle))?;
            checked(what, sys::cublasSetStream_v2(made.handle, stream.cast()))?;
            checked(what, sys::cublasSetMathMode(made.handle, NO_SHORT_SUMS))?;
            // After the stream, which resets an earlier workspace.
            checked(what, sys::cublasSetWorkspace_v2(made.handle, workspace, WORKSPACE))?;
        }
        drop(turn);
        Ok(made)
    }

    /// A matrix product in the engine's precision.
    pub(super) fn product(&self, gpu: &Gpu, product: &Product) -> Result<(), EngineError> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
        let (kind, compute) = match self.precision {
            Precision::F32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F),
            Precision::Tf32 => (CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32),
            Precision::Bf16 => (CUDA_R_16BF, CUBLAS_COMPUTE_32F),
        };
        let &Product { a: (a, read_a), b: (b, read_b), c, rows, columns, depth } = product;
        let operation = |read| match read {
            Read::AsIs => sys::cublasOperation_t::CUBLAS_OP_N,
            Read::Transposed => sys::cublasOperation_t::CUBLAS_OP_T,
        };
        // Values between the starts of two stored rows.
        let stride_a = if read_a == Read::AsIs { depth } else { rows };
        let stride_b = if read_b == Read::AsIs { columns } else { depth };
        let (one, zero) = (1.0f32, 0.0f32);
        // cuBLAS has columns where we have rows: the transposed product, c' = b' * a'.
        // SAFETY: the factors are read during the call; the rest are addresses of the GPU.
        let status = unsafe {
            sys::cublasGemmEx(
                self.handle,
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
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        let what = || format!("a product of {rows} x {depth} and {depth} x {columns} matrices");
        checked(what, status)?;
        gpu.mark("product", |element| (rows * depth + depth * columns + rows * columns) * element)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if !self.handle.is_null() && self.context.make_current().is_ok() {
            let _turn = exclusive();
            // SAFETY: made in `new`, destroyed once.
            let _ = unsafe { sys::cublasDestroy_v2(self.handle) };
        }
    }
}
