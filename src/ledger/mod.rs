//! What is known of one repository and the server that fills it: all events, added up. Pure values: no I/O, and time is
//! passed in, so that any course of events can be replayed in a test, and a claim compared with what a restore gives (R28).

#[cfg(test)]
mod accidents;
#[cfg(test)]
mod agent;
mod assess;
mod beside;
mod counted;
mod coverage;
mod entry;
mod event;
#[cfg(test)]
mod histories;
mod known;
mod rpo;
mod stored;

pub use assess::{Seen, tails};
pub use coverage::Coverage;
pub use entry::{Attempt, Role, StoredTail, Wanted};
pub use event::{Event, LeftBehind, Now, Obstacle, Sample, ServerFacts, Stage, Survey};
pub use known::Ledger;
