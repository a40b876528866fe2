//! Buffers that are allocated once, and shared writes to disjoint parts of them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// Large buffers lie on huge pages where the system gives them: a step walks hundreds of megabytes.
const HUGE_PAGE: usize = 2 << 20;

/// Floats on a cache-line boundary, zero at first.
///
/// The memory is touched only when it is first written, so an unused buffer costs address space alone.
pub struct Buffer {
    start: *mut f32,
    len: usize,
    layout: Layout,
}

// SAFETY: a buffer owns its memory, as a `Vec` does.
unsafe impl Send for Buffer {}
// SAFETY: shared references only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros.
    ///
    /// # Panics
    /// When `len` floats are more than the address space holds.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<f32>()).max(64);
        let huge = bytes >= HUGE_PAGE;
        let align = if huge { HUGE_PAGE } else { 64 };
        let Ok(layout) = Layout::from_size_align(bytes, align) else {
            panic!("a buffer of {len} floats is more than the address space holds")
        };
        // SAFETY: the layout's size is at least 64.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            handle_alloc_error(layout)
        }
        #[cfg(all(target_os = "linux", not(miri)))]
        if huge {
            // A refusal leaves small pages, which are slower and no less right.
            // SAFETY: the range is the allocation's own.
            unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Self { start: start.cast(), len, layout }
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.cast(), self.layout) }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` initialised floats, owned by this buffer.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `len` initialised floats, owned by this buffer and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} floats)", self.len)
    }
}

/// A slice that several threads write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: every access is `unsafe` and promises that no two threads touch the same part.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The part of the range.
    ///
    /// # Safety
    /// While the slice lives, no other thread reads or writes any of the range.
    ///
    /// # Panics
    /// When the range is not inside the slice.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the slice, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The pointer to the element at `at`, for strided access.
    ///
    /// # Panics
    /// When `at` is beyond the end.
    pub(crate) fn at(&self, at: usize) -> *mut f32 {
        assert!(at <= self.len, "{at} of {}", self.len);
        // SAFETY: inside the slice or at its end.
        unsafe { self.start.add(at) }
    }
}
