//! All that a plan follows from, as values.

use std::time::Duration;

use crate::postgres::PgTime;
use crate::repository::HeldLease;
use crate::window::{Catalog, RecoveryWindow};

/// What was promised.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How far back every instant stays restorable.
    pub window: Duration,
}

/// All that a plan follows from.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) policy: Policy,
    /// The earlier of this host's and the store's clock: the window rather begins too early than too late.
    pub(super) now: PgTime,
    pub(super) catalog: &'a Catalog,
    pub(super) window: &'a RecoveryWindow,
    pub(super) leases: Vec<HeldLease>,
    /// A newer repository of the same cluster covers the whole window: this one needs to keep nothing for it.
    pub(super) superseded: bool,
}

impl Facts<'_> {
    /// The first instant of the window.
    pub(super) fn horizon(&self) -> PgTime {
        let micros = i64::try_from(self.policy.window.as_micros()).unwrap_or(i64::MAX);
        PgTime::from_unix_micros(self.now.unix_micros().saturating_sub(micros))
    }
}
