//! What a program must know about memory to use an engine.

pub use pointwise_kernels::{EndingAllocator, share_arena};
pub use pointwise_memory::{Available, Bound, address_space, available, lacking, shown};
