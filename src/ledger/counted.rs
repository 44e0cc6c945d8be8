//! What is counted of pushes, and remembered of the last ones.

use std::time::Duration;

use super::entry::Attempt;
use super::known::Ledger;
use crate::archive::Pushed;

/// Files that are remembered for the status page.
const RECENT: usize = 20;

impl Ledger {
    pub(super) fn count_push(&mut self, pushed: &Pushed, took: Duration) {
        self.counts.push_durations.observe(took);
        if pushed.already_there {
            self.counts.already_there += 1;
            return;
        }
        self.counts.pushed += 1;
        self.counts.raw_bytes += pushed.raw_len;
        self.counts.stored_bytes += pushed.stored_len;
        if let Some(bytes) = &mut self.bytes {
            bytes.wal += pushed.stored_len;
        }
    }

    pub(super) fn remember(&mut self, attempt: Attempt) {
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(attempt);
    }
}
