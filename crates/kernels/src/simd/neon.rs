//! NEON, for 64-bit Arm processors.
//!
//! Its registers hold 4 floats; a vector here is two of them, so that every sum has the same order, and the same bits, as with AVX2. A tile
//! of 6 x 16 sums fills 24 of the 32 registers, 4 hold the row of the right side, and the rest hold the left side's values.
//!
//! One step of such a tile's loop, as rustc 1.95 compiles it: 24 `fmla`, two `ldp` for the right side, six loads for the left one, whose
//! values `fmla` takes as an element (`v8.s[0]`) or as `ld1r` left them, the additions of addresses, and nothing on the stack. Loops with
//! longer bodies do use the stack, above all those of the activations that need an exponential function. The speed is not measured, for
//! lack of a processor; the tests run in an emulator.

use super::vector::{BIASED, EXPONENT, Simd};
use std::arch::aarch64::*;
use std::array::from_fn;

/// Proof that NEON exists.
#[derive(Clone, Copy)]
pub(super) struct Neon(pub(super) ());

/// Floats in a register.
const REGISTER: usize = 4;

/// Two registers: the lower floats and the upper ones.
type Pair = [float32x4_t; 2];

// SAFETY of every block: the token proves the instructions; memory is the caller's promise.

impl Neon {
    /// For each register: `mask ? x : y`.
    #[inline(always)]
    fn select(mask: [uint32x4_t; 2], x: Pair, y: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe { vbslq_f32(mask[i], x[i], y[i]) })
    }

    /// For each register: where `a > b`.
    #[inline(always)]
    fn greater(a: Pair, b: Pair) -> [uint32x4_t; 2] {
        // SAFETY: see above.
        from_fn(|i| unsafe { vcgtq_f32(a[i], b[i]) })
    }
}

impl Simd for Neon {
    type V = Pair;
    const WIDTH: usize = 2 * REGISTER;
    const ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        // SAFETY: see above.
        unsafe { [vdupq_n_f32(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Pair {
        // SAFETY: see above.
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(REGISTER))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Pair) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(REGISTER), v[1]);
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe { vaddq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe { vsubq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe { vmulq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe { vdivq_f32(a[i], b[i]) })
    }
    #[inline(always)]
    fn sqrt(self, a: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe { vsqrtq_f32(a[i]) })
    }
    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
    }
    #[inline(always)]
    fn if_greater(self, a: Pair, b: Pair, x: Pair, y: Pair) -> Pair {
        Self::select(Self::greater(a, b), x, y)
    }
    #[inline(always)]
    fn if_greater_or_nan(self, a: Pair, b: Pair, x: Pair, y: Pair) -> Pair {
        // A NaN is not equal to itself.
        // SAFETY: see above.
        let is_number = from_fn(|i| unsafe { vceqq_f32(a[i], a[i]) });
        Self::select(Self::greater(a, b), x, Self::select(is_number, y, x))
    }
    #[inline(always)]
    fn if_equal(self, a: Pair, b: Pair, x: Pair, y: Pair) -> Pair {
        // SAFETY: see above.
        Self::select(from_fn(|i| unsafe { vceqq_f32(a[i], b[i]) }), x, y)
    }
    #[inline(always)]
    fn greatest(self, a: Pair, b: Pair) -> Pair {
        // `fmax` would be a NaN where either is.
        Self::select(Self::greater(a, b), a, b)
    }
    #[inline(always)]
    fn least(self, a: Pair, b: Pair) -> Pair {
        Self::select(Self::greater(b, a), a, b)
    }
    #[inline(always)]
    fn power_of_two(self, n: Pair) -> Pair {
        // SAFETY: see above.
        from_fn(|i| unsafe {
            let sum = vreinterpretq_s32_f32(vaddq_f32(n[i], vdupq_n_f32(BIASED)));
            vreinterpretq_f32_s32(vshlq_n_s32::<{ EXPONENT as i32 }>(sum))
        })
    }
}
