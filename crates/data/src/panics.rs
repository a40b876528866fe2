//! Decoders of other projects, whose panics are treated as errors of the file that they read.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are caught and need not be printed.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// The result of `decode`, or `None` if it panics, as libraries do on some damaged files. Such a panic prints nothing; for all others, the process's
/// panic hook is as before.
///
/// For decoders that own everything that they change: what a panic left half changed must not be used afterwards.
pub fn without_panic<T>(decode: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                before(info);
            }
        }));
    });
    let outside = CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(decode));
    CAUGHT.set(outside);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_decoder_is_no_panic_of_the_program() {
        let bytes = [1_u8, 2];
        let read =
            |n: usize| without_panic(|| bytes.iter().map(|byte| bytes[n + *byte as usize - 1]).sum::<u8>());
        assert_eq!(read(0), Some(3));
        assert_eq!(read(1), None);
        assert!(!CAUGHT.get(), "panics of this thread are reported again");
        // One inside another: the inner one's end is not the outer one's.
        assert_eq!(without_panic(|| (read(1), CAUGHT.get())), Some((None, true)));
    }
}
