//! Restoring: a plan that is a value, then its effects on the disk.

mod directory;
mod execute;
mod fetch;
mod finish;
mod flush;
mod plan;
mod write;

pub use execute::{Restored, execute};
pub use plan::{Plan, Reach, RestoreRequest, plan};
