//! Tests of the crate, in one program, which links candle once.

mod common;
mod layers;
mod optimizers;
mod pytorch;
mod threads;
mod upstream;
