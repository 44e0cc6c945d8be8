//! What keeps workers from running ahead of the file table. They pass files that are left unread faster than a store takes the
//! table's parts, and a part waits for the packs that it names, of which one may not fill up for hours.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Bytes, by what weighs in a region or a part: of regions that the table has not seen, and of full parts that wait for packs.
const MOST: usize = 8 << 20;

/// How far the workers are ahead.
#[derive(Debug, Default)]
pub(super) struct Pace {
    regions: AtomicUsize,
    waiting: AtomicUsize,
    /// A pack was stored, and a part may be complete.
    stored: Notify,
}

/// Whether a worker may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    No,
    /// Of the table: it wants time.
    OfTable,
    /// Of the packs: parts wait for what may be this worker's.
    OfPacks,
}

impl Pace {
    /// A worker is done with a region of this weight.
    pub(super) fn done(&self, weight: usize) {
        self.regions.fetch_add(weight, Ordering::Relaxed);
    }

    /// The table has taken it in.
    pub(super) fn taken(&self, weight: usize) {
        self.regions.fetch_sub(weight, Ordering::Relaxed);
    }

    /// So much of full parts waits for packs.
    pub(super) fn waits(&self, weight: usize) {
        self.waiting.store(weight, Ordering::Relaxed);
    }

    pub(super) fn ahead(&self) -> Ahead {
        if self.waiting.load(Ordering::Relaxed) > MOST {
            Ahead::OfPacks
        } else if self.regions.load(Ordering::Relaxed) > MOST {
            Ahead::OfTable
        } else {
            Ahead::No
        }
    }

    pub(super) fn pack_is_stored(&self) {
        self.stored.notify_one();
    }

    pub(super) async fn pack_stored(&self) {
        self.stored.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_wait_for_the_table_and_for_packs_and_go_on() {
        let pace = Pace::default();
        let (small, large) = (1, MOST);
        pace.done(small);
        assert_eq!(pace.ahead(), Ahead::No);
        pace.done(large);
        assert_eq!(pace.ahead(), Ahead::OfTable);
        // A pack that parts wait for may be in the hands of one that waits for the table.
        pace.waits(MOST + 1);
        assert_eq!(pace.ahead(), Ahead::OfPacks);
        pace.waits(MOST);
        pace.taken(large);
        assert_eq!(pace.ahead(), Ahead::No);
        pace.taken(small);
        assert_eq!(pace.regions.load(Ordering::Relaxed), 0);
    }
}
