//! One repository, continuously: tasks find things out and do things, and say so as events, which the ledger adds up.
//!
//! One task asks the server (`sampler`), one watches `archive_status` (`watch`), one pushes (`pusher`), one ships the
//! tail (`tail`), one looks at the repository (`survey`). Nothing but the ledger holds what is known, and nothing but
//! `LedgerHandle::apply` changes it.

mod compare;
mod handle;
mod left_behind;
mod log;
mod news;
mod older_tails;
mod outage;
mod pusher;
mod queue;
mod run;
mod sampler;
mod setup;
mod survey;
mod tail;
mod watch;

pub use handle::LedgerHandle;
pub use outage::Outage;
pub use pusher::{Fate, Pusher};
pub use queue::{Failure, FileMark};
pub use run::Archiver;
pub use setup::Setup;
#[cfg(test)]
pub(crate) use {survey::NEXT as NEXT_SURVEY, watch::RESCAN};
