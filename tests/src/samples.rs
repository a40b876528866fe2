//! The samples of Rust in pages and in the crates' READMEs, compiled and run as documentation tests; those that write files
//! are only compiled.

macro_rules! pages {
    ($($page:literal)*) => {
        $(
            #[doc = include_str!($page)]
            const _: () = ();
        )*
    };
}

pages! {
    "../../docs/candle.md"
    "../../docs/crates.md"
    "../../docs/upstream/max-pool-gradient.md"
    "../../crates/candle/README.md"
    "../../crates/data/README.md"
    "../../crates/engine/README.md"
    "../../crates/inference/README.md"
    "../../crates/kernels/README.md"
    "../../crates/memory/README.md"
    "../../crates/models/README.md"
    "../../crates/network/README.md"
    "../../crates/onnx/README.md"
    "../../crates/process/README.md"
    "../../crates/recipe/README.md"
    "../../crates/report/README.md"
    "../../crates/runs/README.md"
    "../../crates/study/README.md"
    "../../crates/training/README.md"
    "../../crates/weights/README.md"
}
