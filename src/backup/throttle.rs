//! Keeping the reading of a data directory below a rate, for all workers together.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Spaces reads so that no more than a given number of bytes is read a second.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: u64,
    /// When the bytes that were read so far are paid for.
    due: Mutex<Instant>,
}

impl Throttle {
    /// `rate` in bytes a second; 0 for no limit.
    pub(super) fn new(rate: u64) -> Self {
        Self { rate, due: Mutex::new(Instant::now()) }
    }

    /// Wait until `bytes` more may be read.
    #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
    pub(super) fn pay(&self, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let wait = match self.due.lock() {
            Ok(mut due) => {
                let now = Instant::now();
                *due = due.max(now) + cost;
                due.saturating_duration_since(now)
            }
            Err(_) => cost,
        };
        std::thread::sleep(wait);
    }
}
