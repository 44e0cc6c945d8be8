//! What the daemon counts while it runs; metrics read it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::store::{Observe, Outcome};

/// Upper bounds of the histograms' buckets in seconds.
pub(super) const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Count `more`.
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How many so far.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took.
#[derive(Debug, Default)]
pub(super) struct Durations(Mutex<Histogram>);

/// A histogram at one instant.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Histogram {
    /// Observations up to each bound of [`BUCKETS`], not cumulative; the last one is for all that are longer.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Seconds of all observations together.
    pub sum: f64,
}

impl Durations {
    /// Note one.
    pub(super) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.buckets[bucket] += 1;
        histogram.sum += seconds;
    }

    /// What was noted so far.
    pub(super) fn get(&self) -> Histogram {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The verbs of a store, in the order in which [`Counters::store`] counts them.
pub(super) const VERBS: [&str; 5] = ["put", "get", "get_range", "list", "delete"];

/// Requests of one verb.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Answered, "not found" included.
    pub ok: Count,
    /// Everything else, one for each try.
    pub failed: Count,
    /// How long each try took.
    pub durations: Durations,
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Files archived that were not there before.
    pub pushed: Count,
    /// Files that were in the repository already.
    pub already_there: Count,
    /// Tries that failed.
    pub push_failed: Count,
    /// Bytes of archived files.
    pub raw_bytes: Count,
    /// Bytes of their objects.
    pub stored_bytes: Count,
    /// How long archiving one file took.
    pub push_durations: Durations,
    /// Tail pieces that were put.
    pub tail_uploads: Count,
    /// Tail pieces that could not be put.
    pub tail_failures: Count,
    /// Requests to the store, by [`VERBS`].
    pub store: [Requests; VERBS.len()],
}

/// Counts what happens at the store, and remembers whether it answers.
#[derive(Debug)]
pub(super) struct StoreWatch {
    counters: Arc<Counters>,
    up: Mutex<Option<bool>>,
}

impl StoreWatch {
    /// Counts in `counters`.
    pub(super) const fn new(counters: Arc<Counters>) -> Self {
        Self { counters, up: Mutex::new(None) }
    }

    /// Whether the last try of any request was answered; `None` before the first.
    pub(super) fn up(&self) -> Option<bool> {
        *self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observe for StoreWatch {
    fn request(&self, verb: &'static str, outcome: Outcome, elapsed: Duration) {
        let answered = outcome == Outcome::Answered;
        *self.up.lock().unwrap_or_else(PoisonError::into_inner) = Some(answered);
        let Some(at) = VERBS.iter().position(|known| *known == verb) else { return };
        let requests = &self.counters.store[at];
        if answered { &requests.ok } else { &requests.failed }.add(1);
        requests.durations.observe(elapsed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Location, Policy, Store};

    #[tokio::test]
    async fn requests_are_counted_by_verb() {
        let counters = Arc::new(Counters::default());
        let watch = Arc::new(StoreWatch::new(Arc::clone(&counters)));
        assert_eq!(watch.up(), None);
        let store = Store::open(&Location::Memory, Policy::default()).unwrap();
        let store = store.observed(Arc::clone(&watch) as Arc<dyn Observe>);
        store.put("a", vec!["text".into()]).await.unwrap();
        store.get("b").await.unwrap_err();
        store.get_range("a", 0..1).await.unwrap();
        store.list("a").await.unwrap();
        store.delete("a").await.unwrap();
        assert_eq!(watch.up(), Some(true));
        let seen = counters.store.each_ref().map(|requests| (requests.ok.get(), requests.failed.get()));
        assert_eq!(seen, [(1, 0); VERBS.len()]);
        assert!(
            counters.store.iter().all(|requests| requests.durations.get().buckets.iter().sum::<u64>() == 1)
        );
        watch.request("get", Outcome::Failed, Duration::from_secs(100));
        assert_eq!(watch.up(), Some(false));
        assert_eq!(counters.store[1].durations.get().buckets[BUCKETS.len()], 1);
    }
}
