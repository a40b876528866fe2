//! Vectors of `f32` behind a capability token.
//!
//! An [`Isa`] can only be obtained by querying the processor, so that holding one proves that its instructions exist. A kernel is written
//! once, generic over [`Simd`], and [`Isa::run`] compiles it for each instruction set.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

use portable::Portable;
pub(crate) use vector::{ROUND, Simd};

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
