//! Values for eyes: units, instants, counts. No I/O.

mod counts;
mod histogram;
mod units;

pub use counts::{Counts, Requests, VERBS};
pub use histogram::{BUCKETS, Histogram};
pub use units::{age, seconds, size, span, utc, when, when_known};
