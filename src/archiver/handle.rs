//! Where the one ledger is. Tasks report here what they found out; the code that shows it reads it
//! here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::log::Log;
use crate::ledger::{Event, Ledger, Now, Wanted};
use crate::store::{Observe, Outcome};

/// The ledger; clones are of the same one.
#[derive(Debug, Clone)]
pub struct LedgerHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ledger: Mutex<(Ledger, Log)>,
    survey: Notify,
}

impl LedgerHandle {
    /// A ledger without an entry.
    pub fn new(now: Now) -> Self {
        let ledger = Mutex::new((Ledger::new(now), Log::new()));
        Self(Arc::new(Inner { ledger, survey: Notify::new() }))
    }

    /// Note what was found out at `now`; what the finder has to look at because of it.
    pub fn apply(&self, event: Event, now: Now) -> Option<Wanted> {
        let mut both = self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let (ledger, log) = &mut *both;
        log.tell(&event, now.instant);
        let wanted = ledger.apply(event, now);
        drop(both);
        if wanted == Some(Wanted::Survey) {
            self.0.survey.notify_one();
        }
        wanted
    }

    /// Something that follows from what is known.
    pub fn read<T>(&self, what: impl FnOnce(&Ledger) -> T) -> T {
        what(&self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Returns when the repository has to be looked at again.
    pub(super) async fn survey_wanted(&self) {
        self.0.survey.notified().await;
    }
}

impl Observe for LedgerHandle {
    fn request(&self, verb: &'static str, outcome: Outcome, elapsed: Duration) {
        self.apply(Event::Requested { verb, outcome, elapsed }, Now::read());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::VERBS;
    use crate::store::{Location, Policy, Store};

    #[tokio::test]
    async fn requests_are_counted_by_verb() {
        let handle = LedgerHandle::new(Now::read());
        assert_eq!(handle.read(|ledger| ledger.store_up), None);
        let store = Store::open(&Location::Memory, Policy::default()).unwrap();
        let store = store.observed(Arc::new(handle.clone()));
        store.put("a", vec!["text".into()]).await.unwrap();
        store.get("b").await.unwrap_err();
        store.get_range("a", 0..1).await.unwrap();
        store.list("a").await.unwrap();
        store.delete("a").await.unwrap();
        assert_eq!(handle.read(|ledger| ledger.store_up), Some(true));
        let counted = handle.read(|ledger| ledger.counts.store);
        assert_eq!(counted.map(|requests| (requests.ok, requests.failed)), [(1, 0); VERBS.len()]);
        assert!(counted.iter().all(|requests| requests.durations.buckets.iter().sum::<u64>() == 1));
        handle.request("get", Outcome::Failed, Duration::from_secs(100));
        assert_eq!(handle.read(|ledger| ledger.store_up), Some(false));
        assert_eq!(handle.read(|ledger| ledger.counts.store[1].failed), 1);
    }
}
