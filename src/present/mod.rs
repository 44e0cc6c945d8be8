//! Values for eyes: units, instants, counts, and what every page looks like. No I/O.

mod counts;
mod exposition;
mod histogram;
mod units;

pub use counts::{Counts, Requests, VERBS};
pub use exposition::{Format, Page, Series, Value};
pub use histogram::{BUCKETS, Histogram};
pub use units::{age, seconds, size, span, utc, when, when_known};

/// The colours of all pages, light and dark, and what stands at their top.
pub const STYLE: &str = include_str!("base.css");
