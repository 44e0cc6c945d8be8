//! One repository, continuously: tasks find things out and do things, and say so as events; the ledger adds them up.
//!
//! One task asks the server (`sampler`), one watches `archive_status` (`watch`), one pushes (`pusher`), one ships the
//! tail (`tail`), one looks at the repository (`survey`). Nothing but the ledger holds what is known, and nothing but
//! `LedgerHandle::apply` changes it.

mod coverage;
mod event;
mod handle;
mod known;
mod ledger;
mod left_behind;
mod log;
mod outage;
mod pusher;
mod queue;
mod rpo;
mod run;
mod sampler;
mod setup;
mod stored;
mod survey;
mod tail;
mod watch;

pub use coverage::Coverage;
pub use event::{Event, LeftBehind, Now, Obstacle, Sample, ServerFacts, Stage, Survey};
pub use handle::LedgerHandle;
pub use known::{Attempt, Role, StoredTail};
pub use ledger::{Ledger, Wanted};
pub use outage::Outage;
pub use pusher::{Fate, Pusher};
pub use queue::{Failure, FileMark};
pub use run::Archiver;
pub use setup::Setup;
