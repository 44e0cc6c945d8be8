//! WAL out and in: `archive_command` and `restore_command`.

mod fetch;
mod inspect;
mod pin;
mod prefetch;
mod push;
mod spool;

pub use fetch::{FetchRequest, Fetched, fetch};
pub use pin::Pins;
pub use prefetch::prefetch;
pub use push::{Pushed, push};
pub use spool::Spool;
