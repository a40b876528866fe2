//! Vector operations, independent of the instruction set.

/// `1.5 * 2^23`: the last bit of a float near it counts whole numbers, so that adding it rounds to the nearest whole number, halves to
/// even. It is valid for numbers up to `2^22`.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// What [`Simd::power_of_two`] adds: the lowest 8 bits of the sum are then `n` with the bias of an exponent. Shifted by [`EXPONENT`], they
/// are in the exponent's place, and nothing else is left.
pub(super) const BIASED: f32 = ROUND + 127.0;

/// Where the exponent of a float begins.
pub(super) const EXPONENT: u32 = 23;

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
    /// `a > b ? x : y`, and `x` where `a` is a NaN: PyTorch's maximum-pool comparison of each value `a` with the best so far, `b`.
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

    /// Prefetches the cache line at `p`, which may point anywhere: only the time of a later read depends on it.
    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}
}
