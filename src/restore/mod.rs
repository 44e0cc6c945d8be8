//! Restoring: a plan that is a value, then its effects on the disk.

mod attempt;
mod compare;
mod delta;
mod destination;
mod directory;
mod execute;
mod fetch;
mod finish;
mod flush;
mod owner;
mod parameters;
mod part;
mod places;
mod plan;
mod prepare;
mod table;
mod write;

pub use execute::{Restored, execute};
pub use finish::Handover;
pub use owner::owner_for;
pub use parameters::too_low;
pub use plan::{Plan, Reach, RestoreRequest, plan};
pub use prepare::{Prepared, prepare};
