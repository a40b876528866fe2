//! What a program owes whoever started it: it stops when a signal asks it to, respects signals that it was told to ignore, and
//! does not fail because nobody reads its progress.

mod command_line;
mod parent;
mod signals;
mod streams;

pub use command_line::parse;
pub use parent::{tie, watch_parent};
pub use signal_hook::consts::SIGINT;
pub use signals::{Request, watch};
pub use streams::{OutputError, note, print};
