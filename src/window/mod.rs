//! What can be restored: a listing becomes a catalog, a catalog and the times in its WAL become the recovery window.
//!
//! The catalog is a pure function of a listing and the small objects that it names (`records`); the window is one of the
//! catalog and of what segments say about themselves (`times`). Restore, status, check, daemon and retention read the
//! window, and nothing else: a claim is never better than what a default restore gives (R28).

mod branch;
#[cfg(test)]
mod branches;
mod choice;
mod locate;
mod look;
mod pieces;
mod reach;
mod recovery;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod shown;
#[cfg(test)]
mod tests;
mod times;

pub use crate::catalog::{Catalog, Gap, Run, Usage};
pub use crate::records::{Records, harmed_backups};
pub use branch::{Branch, Cut, Span, WalPath};
pub use choice::{Chooser, Chosen, Wanted};
pub use locate::Located;
pub use look::look;
pub use pieces::files;
pub use reach::{Lack, Reach, Stranded};
pub use recovery::{Instants, RecoveryWindow};
pub use times::WalTimes;
