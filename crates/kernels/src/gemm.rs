//! Matrix products.
//!
//! The right operand and, where it is a weight, the result lie in *panels* of 16 columns: element `(k, n)` of a `K x N` matrix
//! is at `((n / 16) * K + k) * 16 + n % 16`, `N` a multiple of 16. A micro-kernel keeps a tile of the result in registers: 12
//! rows by two panels with AVX-512, 6 rows by one panel with AVX2 and NEON.
//!
//! Every element of a result is one sum over `k` in ascending order, cut into blocks that depend on `K` alone: the bits do not
//! depend on how rows and columns are shared out.

use crate::memory::Shared;
use crate::parallel::for_each_task;
use crate::simd::{Isa, Kernel, Simd};

/// Columns of a panel.
pub(crate) const PANEL: usize = 16;

/// Longest run of `k` between two visits of a tile of the result: a panel pair of that length, 48 KiB, stays in the L2 cache, from which it
/// is prefetched.
const K_BLOCK: usize = 384;

/// How many steps of `k` ahead the right side is prefetched.
const PREFETCH_STEPS: usize = 8;

/// Rows that share a pass over the panels: `ROW_BLOCK * K_BLOCK` floats, 360 KiB, stay in the L2 cache.
const ROW_BLOCK: usize = 240;

/// Most rows of a [`FinishedProduct`] whose left side stays in the L2 cache for all columns.
const FEW_ROWS: usize = 48;

/// Longest run of `k` in [`TransposedProduct`]: that many rows of `A`, up to 200 KiB, stay in the L2 cache.
pub(crate) const TRANSPOSED_K_BLOCK: usize = 128;

/// `C = A B` or `C += A B`.
///
/// `A` is `m x k`: element `(r, k)` is at `r * lda + k`, or with `COLUMNS` at `k * lda + r`. Sixteen columns of `B` begin every
/// `b_panel` floats and its rows are `ldb` apart: 16 in panels. Likewise for `C`.
#[derive(Clone, Copy)]
pub(crate) struct Product<const COLUMNS: bool = false> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) lda: usize,
    pub(crate) b: *const f32,
    pub(crate) ldb: usize,
    pub(crate) b_panel: usize,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    pub(crate) c_panel: usize,
    pub(crate) accumulate: bool,
}

impl<const COLUMNS: bool> Product<COLUMNS> {
    /// # Safety
    /// The pointers reach as far as sizes and strides say, `n` is a multiple of 16, and nobody else touches `C`.
    pub(crate) unsafe fn run_on(self, isa: Isa) {
        isa.run(self);
    }
}

impl<const COLUMNS: bool> Kernel for Product<COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let blocks = self.k.div_ceil(K_BLOCK).max(1);
        let k_block = self.k.div_ceil(blocks).max(1);
        for row in (0..self.m).step_by(ROW_BLOCK) {
            let rows = ROW_BLOCK.min(self.m - row);
            let mut from = 0;
            // At least once, so that k = 0 gives zeros.
            loop {
                let k = k_block.min(self.k - from);
                // SAFETY: inside the operands, by the promise to `run_on`.
                unsafe {
                    let tiles = Tiles {
                        m: rows,
                        n: self.n,
                        height: S::ROWS,
                        runs: 1,
                        k,
                        a: self.a.wrapping_add(if COLUMNS {
                            from * self.lda + row
                        } else {
                            row * self.lda + from
                        }),
                        a_run: 0,
                        lda: self.lda,
                        b: self.b.wrapping_add(from * self.ldb),
                        ldb: self.ldb,
                        b_panel: self.b_panel,
                        b_pair: 2 * self.b_panel,
                        c: self.c.add(row * self.ldc),
                        ldc: self.ldc,
                        c_panel: self.c_panel,
                        accumulate: self.accumulate || from > 0,
                        finish: Keep,
                        ahead: 0,
                        share: 0,
                    };
                    tiles.run::<S, COLUMNS>(simd);
                }
                from += k_block;
                if from >= self.k {
                    break;
                }
            }
        }
    }
}

/// `C = A' B` or `C += A' B` for row-major `A` (`k x m`) and `B` (`k x n`), both read along their rows; `C` (`m x n`) in panels.
#[derive(Clone, Copy)]
pub(crate) struct TransposedProduct {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) lda: usize,
    pub(crate) b: *const f32,
    pub(crate) ldb: usize,
    pub(crate) c: *mut f32,
    /// Floats between panels of `C`.
    pub(crate) c_panel: usize,
    pub(crate) accumulate: bool,
}

impl TransposedProduct {
    /// # Safety
    /// As [`Product::run_on`].
    pub(crate) unsafe fn run_on(self, isa: Isa) {
        isa.run(self);
    }
}

impl Kernel for TransposedProduct {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let blocks = self.k.div_ceil(TRANSPOSED_K_BLOCK).max(1);
        let k_block = self.k.div_ceil(blocks).max(1);
        let tile = 2 * S::WIDTH;
        // Tiles of equal height: sums of a few rows would wait for each other.
        let height = self.m.div_ceil(self.m.div_ceil(S::ROWS).max(1)).max(1);
        let mut from = 0;
        loop {
            let k = k_block.min(self.k - from);
            // SAFETY: inside the operands, by the promise to `run_on`.
            unsafe {
                let mut column = 0;
                while column < self.n {
                    let columns = tile.min(self.n - column);
                    let mut row = 0;
                    while row < self.m {
                        let rows = height.min(self.m - row);
                        let tiles = Tiles {
                            m: rows,
                            n: columns,
                            height: S::ROWS,
                            runs: 1,
                            k,
                            a: self.a.wrapping_add(from * self.lda + row),
                            a_run: 0,
                            lda: self.lda,
                            b: self.b.wrapping_add(from * self.ldb + column),
                            ldb: self.ldb,
                            b_panel: PANEL,
                            b_pair: 2 * PANEL,
                            c: self.c.add(column / PANEL * self.c_panel + row * PANEL),
                            ldc: PANEL,
                            c_panel: self.c_panel,
                            accumulate: self.accumulate || from > 0,
                            finish: Keep,
                            ahead: 0,
                            share: 0,
                        };
                        tiles.run::<S, true>(simd);
                        row += rows;
                    }
                    column += columns;
                }
            }
            from += k_block;
            if from >= self.k {
                break;
            }
        }
    }
}

/// `C = A B` or `C += A B` where `A` is read directly from an image: `k` is cut into `runs` of the same length, which begin every `a_run`
/// floats.
///
/// Element `(r, i * run + j)` of `A` is at `i * a_run + r * lda + j`, or with `COLUMNS` at `i * a_run + j * lda + r`. The rows of `B` follow
/// each other, `ldb` apart, from run to run. Everything else is as in [`Product`], except that `k` is not cut into blocks.
#[derive(Clone, Copy)]
pub(crate) struct RunProduct<const COLUMNS: bool> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) runs: usize,
    /// Length of a run.
    pub(crate) run: usize,
    pub(crate) a: *const f32,
    pub(crate) a_run: usize,
    pub(crate) lda: usize,
    pub(crate) b: *const f32,
    pub(crate) ldb: usize,
    pub(crate) b_panel: usize,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    pub(crate) c_panel: usize,
    pub(crate) accumulate: bool,
}

impl<const COLUMNS: bool> RunProduct<COLUMNS> {
    /// # Safety
    /// As [`Product::run_on`].
    pub(crate) unsafe fn run_on(self, isa: Isa) {
        isa.run(self);
    }
}

impl<const COLUMNS: bool> Kernel for RunProduct<COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Tiles of equal height: sums of a few rows would wait for each other.
        let rows = self.m.div_ceil(self.m.div_ceil(S::ROWS).max(1)).max(1);
        for row in (0..self.m).step_by(rows) {
            // SAFETY: inside the operands, by the promise to `run_on`.
            unsafe {
                let tiles = Tiles {
                    m: rows.min(self.m - row),
                    n: self.n,
                    height: S::ROWS,
                    runs: self.runs,
                    k: self.run,
                    a: self.a.wrapping_add(if COLUMNS { row } else { row * self.lda }),
                    a_run: self.a_run,
                    lda: self.lda,
                    b: self.b,
                    ldb: self.ldb,
                    b_panel: self.b_panel,
                    b_pair: 2 * self.b_panel,
                    c: self.c.add(row * self.ldc),
                    ldc: self.ldc,
                    c_panel: self.c_panel,
                    accumulate: self.accumulate,
                    finish: Keep,
                    ahead: 0,
                    share: 0,
                };
                tiles.run::<S, COLUMNS>(simd);
            }
        }
    }
}

/// What is done to a sum before it is stored.
pub(crate) trait Finish: Copy {
    /// Whether the right side is in distant memory, like the weights of inference, each of which is read only once or twice: while a panel
    /// is processed, the whole next one is prefetched.
    const FAR: bool;

    /// The finish of a result that begins this many floats and columns further on.
    ///
    /// # Safety
    /// That beginning lies inside this one's result.
    unsafe fn at(self, floats: usize, columns: usize) -> Self;

    /// A vector of the result, this many floats and columns from its beginning.
    ///
    /// # Safety
    /// As [`Finish::at`].
    unsafe fn value<S: Simd>(self, simd: S, floats: usize, columns: usize, sum: S::V) -> S::V;
}

/// The sum itself.
#[derive(Clone, Copy)]
pub(crate) struct Keep;

impl Finish for Keep {
    const FAR: bool = false;

    #[inline(always)]
    unsafe fn at(self, _: usize, _: usize) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn value<S: Simd>(self, _: S, _: usize, _: usize, sum: S::V) -> S::V {
        sum
    }
}

/// As [`Keep`], with a right side in distant memory.
#[derive(Clone, Copy)]
pub(crate) struct KeepFar;

impl Finish for KeepFar {
    const FAR: bool = true;

    #[inline(always)]
    unsafe fn at(self, _: usize, _: usize) -> Self {
        self
    }
    #[inline(always)]
    unsafe fn value<S: Simd>(self, _: S, _: usize, _: usize, sum: S::V) -> S::V {
        sum
    }
}

/// A product small enough for the caches.
#[derive(Clone, Copy)]
struct Tiles<F = Keep> {
    m: usize,
    n: usize,
    /// Most rows of a tile.
    height: usize,
    /// Runs of `k` steps, as in [`RunProduct`].
    runs: usize,
    k: usize,
    a: *const f32,
    a_run: usize,
    lda: usize,
    b: *const f32,
    ldb: usize,
    /// Floats from a panel to the second one of its pair, and from pair to pair.
    b_panel: usize,
    b_pair: usize,
    c: *mut f32,
    ldc: usize,
    c_panel: usize,
    accumulate: bool,
    /// Applied to complete sums.
    finish: F,
    /// Floats from the beginning of a panel to what is read after it, if that is [`Finish::FAR`].
    ahead: usize,
    /// Floats of it that are prefetched per step.
    share: usize,
}

impl<F: Finish> Tiles<F> {
    /// `COLUMNS`: element `(r, k)` of `A` is at `k * lda + r` instead of `r * lda + k`.
    ///
    /// # Safety
    /// As [`Product::run_on`].
    #[inline(always)]
    unsafe fn run<S: Simd, const COLUMNS: bool>(mut self, simd: S) {
        let panels = self.n / PANEL;
        let step = (2 * S::WIDTH).div_ceil(PANEL);
        let mut panel = 0;
        // Wrapping additions: with k = 0, the operands have nothing that a pointer may point to.
        let Self { b, c, finish, .. } = self;
        while panel < panels {
            let wide = panel + step <= panels;
            // SAFETY: panels below n / 16.
            unsafe {
                self.b = b.wrapping_add(panel / 2 * self.b_pair + panel % 2 * self.b_panel);
                self.c = c.add(panel * self.c_panel);
                self.finish = finish.at(panel * self.c_panel, panel * PANEL);
                if wide {
                    self.rows::<S, 2, COLUMNS>(simd);
                } else {
                    self.rows::<S, 1, COLUMNS>(simd);
                }
            }
            panel += step;
        }
    }

    #[inline(always)]
    unsafe fn rows<S: Simd, const VECTORS: usize, const COLUMNS: bool>(mut self, simd: S) {
        let Self { a, c, m, finish, ahead, .. } = self;
        let mut row = 0;
        // Each row of tiles prefetches its share.
        let share = PAIR.div_ceil(m.div_ceil(self.height).max(1));
        while row < m {
            let rows = self.height.min(m - row);
            // SAFETY: rows below m.
            unsafe {
                self.a = a.wrapping_add(if COLUMNS { row } else { row * self.lda });
                self.c = c.add(row * self.ldc);
                self.finish = finish.at(row * self.ldc, 0);
                self.ahead = ahead + row / self.height * share * self.k;
                self.share = share;
                if S::ROWS == 12 {
                    match rows {
                        12 => self.tile::<S, 12, VECTORS, COLUMNS>(simd),
                        11 => self.tile::<S, 11, VECTORS, COLUMNS>(simd),
                        10 => self.tile::<S, 10, VECTORS, COLUMNS>(simd),
                        9 => self.tile::<S, 9, VECTORS, COLUMNS>(simd),
                        8 => self.tile::<S, 8, VECTORS, COLUMNS>(simd),
                        7 => self.tile::<S, 7, VECTORS, COLUMNS>(simd),
                        _ => self.few_rows::<S, VECTORS, COLUMNS>(rows, simd),
                    }
                } else {
                    self.few_rows::<S, VECTORS, COLUMNS>(rows, simd);
                }
            }
            row += rows;
        }
    }

    #[inline(always)]
    unsafe fn few_rows<S: Simd, const VECTORS: usize, const COLUMNS: bool>(self, rows: usize, simd: S) {
        // SAFETY: the caller's.
        unsafe {
            match rows {
                6 if S::ROWS >= 6 => self.tile::<S, 6, VECTORS, COLUMNS>(simd),
                5 if S::ROWS >= 6 => self.tile::<S, 5, VECTORS, COLUMNS>(simd),
                4 => self.tile::<S, 4, VECTORS, COLUMNS>(simd),
                3 => self.tile::<S, 3, VECTORS, COLUMNS>(simd),
                2 => self.tile::<S, 2, VECTORS, COLUMNS>(simd),
                _ => self.tile::<S, 1, VECTORS, COLUMNS>(simd),
            }
        }
    }

    /// The micro-kernel: `ROWS x VECTORS` accumulators in registers.
    #[inline(always)]
    unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize, const COLUMNS: bool>(self, simd: S) {
        // The second vector is the second half of a panel, or the next panel.
        let (b_next, c_next) =
            if S::WIDTH == PANEL { (self.b_panel, self.c_panel) } else { (S::WIDTH, S::WIDTH) };
        let mut sums = [[simd.zero(); VECTORS]; ROWS];
        let mut b = self.b;
        let mut ahead = b.wrapping_add(self.ahead);
        for r in 0..ROWS {
            for v in 0..VECTORS {
                simd.prefetch(self.c.wrapping_add(r * self.ldc + v * c_next));
            }
        }
        // SAFETY: k steps inside the operands, ROWS x VECTORS inside the result.
        unsafe {
            for run in 0..self.runs {
                let mut a = self.a.add(run * self.a_run);
                for t in 0..self.k {
                    if F::FAR {
                        simd.prefetch(ahead);
                        if self.share > PANEL {
                            simd.prefetch(ahead.wrapping_add(PANEL));
                        }
                        ahead = ahead.wrapping_add(self.share);
                    } else {
                        for v in 0..VECTORS {
                            simd.prefetch(b.wrapping_add(PREFETCH_STEPS * self.ldb + v * b_next));
                        }
                    }
                    if COLUMNS {
                        simd.prefetch(a.wrapping_add(2 * PANEL));
                    } else if t % PANEL == 0 {
                        for r in ROWS..2 * ROWS {
                            simd.prefetch(a.wrapping_add(r * self.lda));
                        }
                    }
                    let mut right = [simd.zero(); VECTORS];
                    for (v, right) in right.iter_mut().enumerate() {
                        *right = simd.load(b.add(v * b_next));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let left = simd.splat(*a.add(if COLUMNS { r } else { r * self.lda }));
                        for (sum, right) in sums.iter_mut().zip(right) {
                            *sum = simd.mul_add(left, right, *sum);
                        }
                    }
                    // The last step may go beyond the end of the operands, but that pointer is never read.
                    a = a.wrapping_add(if COLUMNS { self.lda } else { 1 });
                    b = b.wrapping_add(self.ldb);
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, mut sum) in sums.into_iter().enumerate() {
                    let at = r * self.ldc + v * c_next;
                    let c = self.c.add(at);
                    if self.accumulate {
                        sum = simd.add(simd.load(c), sum);
                    }
                    simd.store(c, self.finish.value(simd, at, v * S::WIDTH, sum));
                }
            }
        }
    }
}

/// What a layer computes from its sums: `min(max(sum + bias + addend, low), high)`; a NaN stays a NaN.
#[derive(Clone, Copy)]
pub(crate) struct Clamp {
    /// The bias of each column.
    pub(crate) bias: *const f32,
    /// Laid out as the result; null for none.
    pub(crate) addend: *const f32,
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Finish for Clamp {
    const FAR: bool = true;

    #[inline(always)]
    unsafe fn at(self, floats: usize, columns: usize) -> Self {
        // SAFETY: the caller's.
        let (bias, addend) = unsafe {
            let addend = if self.addend.is_null() { self.addend } else { self.addend.add(floats) };
            (self.bias.add(columns), addend)
        };
        Self { bias, addend, ..self }
    }

    #[inline(always)]
    unsafe fn value<S: Simd>(self, simd: S, floats: usize, columns: usize, sum: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            let mut x = simd.add(sum, simd.load(self.bias.add(columns)));
            if !self.addend.is_null() {
                x = simd.add(x, simd.load(self.addend.add(floats)));
            }
            simd.least(simd.splat(self.high), simd.greatest(simd.splat(self.low), x))
        }
    }
}

/// Columns of a pair of panels.
pub(crate) const PAIR: usize = 2 * PANEL;

/// `C = finish(A B)` with the weights of inference: `B` in *pairs* of panels, element `(k, n)` of a `K x N` matrix at
/// `((n / 32) * K + k) * 32 + n % 32`, so that a product reads it in one stream.
///
/// `A` is as in [`RunProduct`]; with one run, `k` is cut into blocks as in [`Product`].
#[derive(Clone, Copy)]
pub(crate) struct FinishedProduct<F> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) runs: usize,
    /// Length of a run.
    pub(crate) run: usize,
    pub(crate) a: *const f32,
    pub(crate) a_run: usize,
    pub(crate) lda: usize,
    pub(crate) b: *const f32,
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    pub(crate) finish: F,
}

impl FinishedProduct<KeepFar> {
    pub(crate) fn with<F: Finish>(self, finish: F) -> FinishedProduct<F> {
        let Self { m, n, runs, run, a, a_run, lda, b, c, ldc, finish: KeepFar } = self;
        FinishedProduct { m, n, runs, run, a, a_run, lda, b, c, ldc, finish }
    }
}

impl<F: Finish> FinishedProduct<F> {
    /// # Safety
    /// As [`Product::run_on`]; `finish` is that of the whole result.
    pub(crate) unsafe fn run_on(self, isa: Isa) {
        isa.run(self);
    }
}

impl<F: Finish> Kernel for FinishedProduct<F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Tiles of equal height: sums of a few rows would wait for each other.
        let height = self.m.div_ceil(self.m.div_ceil(S::ROWS).max(1)).max(1);
        let rows = ROW_BLOCK / height * height;
        let blocks = if self.runs == 1 { self.run.div_ceil(K_BLOCK).max(1) } else { 1 };
        let k_block = self.run.div_ceil(blocks).max(1);
        let pair = self.runs * self.run * PAIR;
        // With few rows, the weights are streamed in memory order. With many, the rows stay and all panels of a block are streamed past
        // them.
        let few = self.m <= FEW_ROWS;
        let columns = if few { PAIR } else { self.n.max(1) };
        for row in (0..self.m).step_by(rows) {
            for column in (0..self.n).step_by(columns) {
                for at in 0..blocks {
                    let from = at * k_block;
                    let k = k_block.min(self.run - from);
                    // SAFETY: inside the operands, by the promise to `run_on`.
                    unsafe {
                        let tiles = Tiles {
                            m: rows.min(self.m - row),
                            n: columns.min(self.n - column),
                            height,
                            runs: self.runs,
                            k,
                            a: self.a.add(row * self.lda + from),
                            a_run: self.a_run,
                            lda: self.lda,
                            b: self.b.add(column / PAIR * pair + from * PAIR),
                            ldb: PAIR,
                            b_panel: PANEL,
                            b_pair: pair,
                            c: self.c.add(row * self.ldc + column),
                            ldc: self.ldc,
                            c_panel: PANEL,
                            accumulate: at > 0,
                            finish: KeepFar,
                            ahead: if few { self.runs * k * PAIR } else { pair },
                            share: 0,
                        };
                        if at + 1 < blocks {
                            tiles.run::<S, false>(simd);
                        } else {
                            let finish = self.finish.at(row * self.ldc + column, column);
                            tiles.finished(finish).run::<S, false>(simd);
                        }
                    }
                }
            }
        }
    }
}

impl Tiles<KeepFar> {
    #[inline(always)]
    fn finished<F: Finish>(self, finish: F) -> Tiles<F> {
        let Self { m, n, height, runs, k, a, a_run, lda, b, ldb, .. } = self;
        let Self { b_panel, b_pair, c, ldc, c_panel, accumulate, ahead, share, .. } = self;
        Tiles {
            m,
            n,
            height,
            runs,
            k,
            a,
            a_run,
            lda,
            b,
            ldb,
            b_panel,
            b_pair,
            c,
            ldc,
            c_panel,
            accumulate,
            finish,
            ahead,
            share,
        }
    }
}

/// Transposes panels: each of `matrices` matrices `K x N` in panels of `N` becomes `N x K` in panels of `K`; both multiples of 16.
pub(crate) fn transpose_panels(matrices: usize, k: usize, n: usize, source: &[f32], target: &mut [f32]) {
    let len = matrices * k * n;
    assert!(source.len() == len && target.len() == len && k.is_multiple_of(PANEL) && n.is_multiple_of(PANEL));
    let target = Shared::new(target);
    let panels = n / PANEL;
    for_each_task(matrices * panels, |task| {
        let (matrix, panel) = (task / panels, task % panels);
        let source = &source[task * k * PANEL..(task + 1) * k * PANEL];
        for (block, source) in source.chunks_exact(PANEL * PANEL).enumerate() {
            let at = matrix * k * n + (block * n + panel * PANEL) * PANEL;
            // SAFETY: each panel of the source fills its own rows of the target's panels.
            let target = unsafe { target.part(at..at + PANEL * PANEL) };
            for row in 0..PANEL {
                for column in 0..PANEL {
                    target[column * PANEL + row] = source[row * PANEL + column];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_random::{Purpose, Stream};

    /// For a sum of up to 600 products below one in `f32`, in any order.
    const TOLERANCE: f64 = 600.0 * 6e-8;

    fn uniform(seed: u64, len: usize) -> Vec<f32> {
        let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
        (0..len).map(|_| stream.word() as f32 / (1u64 << 31) as f32 - 1.0).collect()
    }

    /// Row-major `K x N` to panels.
    fn panels(k: usize, n: usize, b: &[f32]) -> Vec<f32> {
        let mut packed = vec![0.0; k * n];
        for row in 0..k {
            for column in 0..n {
                packed[(column / PANEL * k + row) * PANEL + column % PANEL] = b[row * n + column];
            }
        }
        packed
    }

    fn naive(m: usize, n: usize, k: usize, a: impl Fn(usize, usize) -> f32, b: &[f32]) -> Vec<f64> {
        let mut c = vec![0.0; m * n];
        for row in 0..m {
            for column in 0..n {
                c[row * n + column] =
                    (0..k).map(|t| f64::from(a(row, t)) * f64::from(b[t * n + column])).sum();
            }
        }
        c
    }

    fn close(what: &str, got: &[f32], expected: &[f64], scale: f64) {
        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
            let expected = expected * scale;
            assert!((f64::from(*got) - expected).abs() <= TOLERANCE, "{what}: {got} at {at}, not {expected}");
        }
    }

    /// Zero, one, and around every block and tile.
    const M: [usize; 11] = [0, 1, 3, 5, 6, 7, 11, 12, 13, 241, 254];
    const N: [usize; 4] = [16, 32, 48, 80];
    const K: [usize; 7] = [0, 1, 2, 15, 129, 256, 520];

    #[test]
    fn products_are_the_obvious_loop() {
        for isa in Isa::available() {
            // Miri interprets the smaller ones.
            let (most_rows, largest_k) = if cfg!(miri) { (13, 15) } else { (usize::MAX, usize::MAX) };
            for (i, m) in M.into_iter().enumerate().filter(|(_, m)| *m <= most_rows) {
                // Not every combination: each pair of neighbours in a table with one of another.
                let (n, k) = (N[i % N.len()], K[i % K.len()].min(largest_k));
                let what = format!("{m} x {n} x {k} on {isa}");
                let (a, b) = (uniform(1, m * k), uniform(2, k * n));
                let expected = naive(m, n, k, |row, t| a[row * k + t], &b);
                let packed = panels(k, n, &b);
                let mut c = vec![f32::NAN; m * n];
                for (accumulate, scale) in [(false, 1.0), (true, 2.0)] {
                    let product = Product::<false> {
                        m,
                        n,
                        k,
                        a: a.as_ptr(),
                        lda: k,
                        b: packed.as_ptr(),
                        ldb: PANEL,
                        b_panel: k * PANEL,
                        c: c.as_mut_ptr(),
                        ldc: n,
                        c_panel: PANEL,
                        accumulate,
                    };
                    // SAFETY: the slices are as long as the sizes say.
                    unsafe { product.run_on(isa) };
                    close(&what, &c, &expected, scale);
                }
                // The same from the columns of the transposed operand and a row-major right side.
                let turned: Vec<f32> = (0..k * m).map(|at| a[at % m.max(1) * k + at / m.max(1)]).collect();
                let mut c = vec![f32::NAN; m * n];
                let product = Product::<true> {
                    m,
                    n,
                    k,
                    a: turned.as_ptr(),
                    lda: m,
                    b: b.as_ptr(),
                    ldb: n,
                    b_panel: PANEL,
                    c: c.as_mut_ptr(),
                    ldc: n,
                    c_panel: PANEL,
                    accumulate: false,
                };
                // SAFETY: as above.
                unsafe { product.run_on(isa) };
                close(&what, &c, &expected, 1.0);
                // And into panels.
                let mut c = vec![f32::NAN; m * n];
                for (accumulate, scale) in [(false, 1.0), (true, 2.0)] {
                    let product = TransposedProduct {
                        m,
                        n,
                        k,
                        a: turned.as_ptr(),
                        lda: m,
                        b: b.as_ptr(),
                        ldb: n,
                        c: c.as_mut_ptr(),
                        c_panel: m * PANEL,
                        accumulate,
                    };
                    // SAFETY: as above.
                    unsafe { product.run_on(isa) };
                    let rows: Vec<f32> = (0..m * n)
                        .map(|at| (at / n, at % n))
                        .map(|(row, column)| c[(column / PANEL * m + row) * PANEL + column % PANEL])
                        .collect();
                    close(&what, &rows, &expected, scale);
                }
            }
        }
    }

    #[test]
    fn panels_turn_around_and_back() {
        let (k, n) = (32, 48);
        let matrices = 3;
        let source = uniform(3, matrices * k * n);
        let (mut turned, mut back) = (vec![f32::NAN; source.len()], vec![f32::NAN; source.len()]);
        transpose_panels(matrices, k, n, &source, &mut turned);
        for (matrix, row, column) in [(0, 0, 0), (1, 17, 40), (2, 31, 47)] {
            let from = matrix * k * n + (column / PANEL * k + row) * PANEL + column % PANEL;
            let to = matrix * k * n + (row / PANEL * n + column) * PANEL + row % PANEL;
            assert_eq!(turned[to], source[from]);
        }
        transpose_panels(matrices, n, k, &turned, &mut back);
        assert_eq!(back, source);
    }
}
