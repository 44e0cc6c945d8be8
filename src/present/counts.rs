//! What is counted while a daemon runs, as plain values.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// The verbs of a store, in the order in which [`Counts::store`] counts them.
pub const VERBS: [&str; 5] = ["put", "get", "get_range", "list", "delete"];

/// Requests of one verb.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// Answered, "not found" included.
    pub ok: u64,
    /// Everything else, one for each try.
    pub failed: u64,
    /// How long each try took.
    pub durations: Histogram,
}

/// Everything that is counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Files archived that were not there before.
    pub pushed: u64,
    /// Files that were in the repository already.
    pub already_there: u64,
    /// Tries that failed.
    pub push_failed: u64,
    /// Bytes of archived files.
    pub raw_bytes: u64,
    /// Bytes of their objects.
    pub stored_bytes: u64,
    /// How long archiving one file took.
    pub push_durations: Histogram,
    /// Tail pieces that were put.
    pub tail_uploads: u64,
    /// Tail pieces that could not be put.
    pub tail_failures: u64,
    /// Requests to the store, by [`VERBS`].
    pub store: [Requests; VERBS.len()],
}

impl Counts {
    /// Note one try of a request.
    pub fn request(&mut self, verb: &str, answered: bool, elapsed: Duration) {
        let Some(at) = VERBS.iter().position(|known| *known == verb) else { return };
        let requests = &mut self.store[at];
        *if answered { &mut requests.ok } else { &mut requests.failed } += 1;
        requests.durations.observe(elapsed);
    }
}
