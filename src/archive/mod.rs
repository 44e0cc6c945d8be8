//! WAL out and in: `archive_command` and `restore_command`, and what the daemon does ahead of them.

mod ahead;
mod ask;
mod fetch;
mod inspect;
mod pin;
mod prefetch;
mod protocol;
mod push;
mod ready;
mod redirect;
mod spool;
mod tail_reader;
mod upcoming;
mod wal_end;

pub use ahead::{Ahead, Taken};
pub use ask::{Ask, Asked, ask, ask_for_line};
pub use fetch::{FetchRequest, Fetched, fetch};
pub use inspect::refuse_foreign;
pub use pin::Pins;
pub use prefetch::{Prefetch, prefetch};
pub use protocol::{Answer, Destination, Request, is_final};
pub use push::{Pushed, push, push_into};
pub use ready::{PgWal, parse_ready};
pub use redirect::Redirect;
pub use spool::Spool;
pub use tail_reader::{TailReader, TailSlice};
pub use wal_end::wal_end_on_disk;
