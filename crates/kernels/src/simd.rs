//! Vectors of `f32` behind a capability token.
//!
//! An [`Isa`] can only be made by asking the processor, so that holding one proves that its instructions exist. A kernel is
//! written once, generic over [`Simd`], and [`Isa::run`] compiles it for each instruction set.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

/// An instruction set that this machine was found to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best instruction set of this machine.
    #[must_use]
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// Plain Rust, on every target; the compiler vectorises it for the target's baseline.
    #[must_use]
    pub fn portable() -> Self {
        Self(Level::Portable)
    }

    /// Every instruction set of this machine that has kernels, the best first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        // Under Miri there are no processor features, and the vendors' intrinsics are not interpreted.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if fma && is_x86_feature_detected!("avx512f") {
                found.push(Self(Level::Avx512));
            }
            if fma {
                found.push(Self(Level::Avx2));
            }
        }
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Self(Level::Neon));
        }
        found.push(Self::portable());
        found
    }

    /// Runs a kernel compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,avx512f")]
        fn avx512<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(x86::Avx512(()))
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(x86::Avx2(()))
        }
        #[cfg(target_arch = "aarch64")]
        #[target_feature(enable = "neon")]
        fn neon<K: Kernel>(kernel: K) -> K::Output {
            kernel.run(neon::Neon(()))
        }
        match self.0 {
            Level::Portable => kernel.run(Portable),
            // SAFETY: the token exists only where the features were detected.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2(kernel) },
            // SAFETY: the token exists only where the features were detected.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512(kernel) },
            // SAFETY: the token exists only where the feature was detected.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon(kernel) },
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2+FMA",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "NEON",
        })
    }
}

/// Work that is compiled for each instruction set. `run` must be `#[inline(always)]`, and so must what it calls: only what is
/// inlined into [`Isa::run`]'s functions is compiled with their instructions.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// `1.5 * 2^23`: a float near it has whole numbers for its last bit, so that adding it rounds to the nearest whole number, halves to
/// even. It is right for numbers up to `2^22`.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// What [`Simd::power_of_two`] adds: with it the lowest 8 bits of the sum are `n` with the bias of an exponent. Shifted by
/// [`EXPONENT`] they are where an exponent stands, and nothing else is left.
const BIASED: f32 = ROUND + 127.0;

/// Where the exponent of a float begins.
const EXPONENT: u32 = 23;

/// A vector of [`Simd::WIDTH`] floats and what can be done with it. `WIDTH` is 8 or 16: a panel's columns, or half of them.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    type V: Copy;
    const WIDTH: usize;
    /// Rows of a GEMM tile, of two vectors each: as many as the registers hold.
    const ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `WIDTH` floats can be read at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `WIDTH` floats can be written at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the target has such an instruction.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? x : y`; with a NaN `y`.
    fn if_greater(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `a > b ? x : y`, and `x` where `a` is a NaN: what a maximum pool of PyTorch asks of each value `a` after the best one `b`.
    fn if_greater_or_nan(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `a == b ? x : y`; with a NaN `y`.
    fn if_equal(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The greater one; `b` where either is a NaN.
    fn greatest(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser one; `b` where either is a NaN.
    fn least(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^n` for whole numbers from -126 to 127, exact; any number for other `n`.
    fn power_of_two(self, n: Self::V) -> Self::V;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Asks for the cache line at `p`, wherever it points: only the time of a later read depends on it.
    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}
}

/// Arrays, which the compiler turns into the target's baseline vectors.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Portable {
    #[inline(always)]
    fn map2(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
        std::array::from_fn(|i| f(a[i], b[i]))
    }
}

impl Simd for Portable {
    type V = [f32; 8];
    const WIDTH: usize = 8;
    const ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 8] {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 8]) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn sqrt(self, a: [f32; 8]) -> [f32; 8] {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        // A fused operation is one instruction in the baseline of 64-bit Arm, and a slow function on baseline x86.
        if cfg!(target_arch = "aarch64") {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn if_greater(self, a: [f32; 8], b: [f32; 8], x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn if_greater_or_nan(self, a: [f32; 8], b: [f32; 8], x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] || a[i].is_nan() { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn if_equal(self, a: [f32; 8], b: [f32; 8], x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] == b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn greatest(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn least(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        Self::map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn power_of_two(self, n: [f32; 8]) -> [f32; 8] {
        n.map(|n| f32::from_bits((n + BIASED).to_bits() << EXPONENT))
    }
}
