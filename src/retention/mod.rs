//! Retention: any instant of the window can be restored, and nothing older is kept without a reason that is printed.
//!
//! First a plan, a pure function of what is listed, the recovery window, the policy, holds, leases and time: which backups
//! stay (`backups`), which WAL these need (`wal`), and every other object goes (`plan`). Then its execution, in the
//! order of R23 (`execute`): manifests, packs that no manifest names, WAL. Killed anywhere, what remains is consistent, and
//! the next run completes it.

mod backups;
#[cfg(test)]
mod cases;
mod execute;
mod facts;
#[cfg(test)]
mod harmed;
#[cfg(test)]
mod interleaved;
mod locked;
#[cfg(test)]
mod meanwhile;
mod outlook;
mod plan;
#[cfg(test)]
mod site;
#[cfg(test)]
mod tests;
mod wal;
#[cfg(test)]
mod without_key;

pub use execute::{Expired, expire, plan_now};
pub use facts::Policy;
pub use outlook::{Next, held_bytes, next};
pub use plan::{Line, Plan};
