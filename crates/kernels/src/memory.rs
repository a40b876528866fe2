//! Buffers that are allocated once, and shared writes to disjoint parts of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// Large buffers use huge pages if the system provides them: a step walks through hundreds of megabytes.
#[cfg(all(target_os = "linux", not(miri)))]
const HUGE_PAGE: usize = 2 << 20;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Floats on a cache-line boundary, initially zero.
///
/// The memory is touched only when it is first written, so an unused buffer costs only address space.
pub struct Buffer {
    start: *mut f32,
    len: usize,
    allocation: *mut u8,
    layout: Layout,
}

// SAFETY: a buffer owns its memory, as a `Vec` does.
unsafe impl Send for Buffer {}
// SAFETY: shared references only read.
unsafe impl Sync for Buffer {}

/// The system refused an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The requested size.
    pub bytes: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB of memory are not available", self.bytes.div_ceil(1 << 20))
    }
}

impl std::error::Error for OutOfMemory {}

impl Buffer {
    /// An empty buffer.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(0)
    }

    /// `len` zeros.
    ///
    /// # Panics
    /// When there is not enough memory: see [`Buffer::try_new`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self::try_new(len).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `len` zeros.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the system refuses the allocation. Most systems grant it as long as the address space has room, and kill a
    /// process that writes to more memory than there is.
    pub fn try_new(len: usize) -> Result<Self, OutOfMemory> {
        let bytes = Self::bytes_of(len);
        // The system's own alignment: with a larger one, the standard library writes the zeros itself and so touches all of the memory.
        let layout = Layout::from_size_align(bytes, align_of::<f32>()).map_err(|_| OutOfMemory { bytes })?;
        // SAFETY: the layout's size is not zero.
        let allocation = unsafe { System.alloc_zeroed(layout) };
        if allocation.is_null() {
            return Err(OutOfMemory { bytes });
        }
        // SAFETY: `bytes` has a line to spare.
        let start = unsafe { allocation.add(allocation.align_offset(LINE)) };
        #[cfg(all(target_os = "linux", not(miri)))]
        if bytes >= 2 * HUGE_PAGE {
            // Only pages that belong entirely to the allocation. A refusal leaves small pages, which are slower but just as correct.
            let first = allocation.align_offset(HUGE_PAGE);
            // SAFETY: the range is inside the allocation, which has two pages at least.
            unsafe {
                let end = (bytes - first) / HUGE_PAGE * HUGE_PAGE;
                libc::madvise(allocation.add(first).cast(), end, libc::MADV_HUGEPAGE);
            }
        }
        Ok(Self { start: start.cast(), len, allocation, layout })
    }

    /// Bytes that a buffer of `len` floats takes.
    #[must_use]
    pub const fn bytes_of(len: usize) -> usize {
        len.saturating_mul(size_of::<f32>()).saturating_add(LINE)
    }

    /// Bytes taken.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `try_new` with this layout.
        unsafe { System.dealloc(self.allocation, self.layout) }
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

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} floats)", self.len)
    }
}

/// Makes all threads allocate from one arena of the system's allocator, for a program with limited address space; call it before starting
/// threads. glibc reserves 64 MiB of address space for each thread that allocates, which may leave none for the next thread's stack, or for
/// what a thread allocates while it starts, and that aborts the program. Other allocators do not.
pub fn share_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: it sets a number of the allocator's, which any thread may do at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// The system's allocator, for a program that reports in one sentence what Rust's standard library would abort for: if memory other than a
/// [`Buffer`]'s is refused, the process ends with that sentence and exit code 1.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: pointwise_kernels::EndingAllocator = pointwise_kernels::EndingAllocator;
/// # fn main() {}
/// ```
#[derive(Debug, Clone, Copy)]
pub struct EndingAllocator;

impl EndingAllocator {
    fn checked(start: *mut u8, bytes: usize) -> *mut u8 {
        if start.is_null() {
            let error = OutOfMemory { bytes };
            // None of this allocates. The reader of stderr may be gone.
            let _ =
                writeln!(std::io::stderr(), "error: {error}: free some, or raise the limit of this process");
            std::process::exit(1);
        }
        start
    }
}

// SAFETY: the system's allocator, whose answers are passed on.
unsafe impl GlobalAlloc for EndingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        Self::checked(unsafe { System.alloc(layout) }, layout.size())
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        Self::checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        Self::checked(unsafe { System.realloc(start, layout, size) }, size)
    }
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(start, layout) }
    }
}

/// A slice that several threads write, each to its own part.
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

    /// The part of the slice in the range.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_address_space_is_an_error() {
        for len in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 4] {
            let error = Buffer::try_new(len).unwrap_err();
            assert!(error.to_string().ends_with(" MiB of memory are not available"), "{error}");
        }
        assert_eq!(Buffer::try_new(100).unwrap().bytes(), Buffer::bytes_of(100));
        assert!(Buffer::empty().is_empty());
    }
}
