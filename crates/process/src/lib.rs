//! How a program behaves towards its caller: it stops when a signal asks it to, respects signals that it was started to ignore, and does not fail
//! because nobody reads its progress.

mod cargo;
mod command_line;
mod list;
mod parent;
mod signals;
mod stop;
mod streams;

pub use cargo::outside_cargo;
pub use command_line::parse;
pub use list::List;
pub use parent::{tie, watch_parent};
pub use signals::{Request, time_is_up, watch};
pub use stop::Stop;
pub use streams::{OutputError, note, print, tail};
