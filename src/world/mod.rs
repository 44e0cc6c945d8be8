//! For tests: a cluster and its repository as a value, to which anything may happen, and what PostgreSQL would make of what
//! is stored. Knows nothing of windows, ledgers and plans, which are held against it.

mod generator;
mod replay;

pub(crate) use generator::{Commit, SIZE, Stored, StoredTail, World, name, seconds, seed, size, timeline};

use crate::format::Manifest;
use crate::postgres::{Lsn, TimelineId};

/// A manifest of a backup between two positions.
pub(crate) fn manifest(start: Lsn, stop: Lsn, timeline: u32) -> Manifest {
    let text = include_str!("../format/FORMAT.md");
    let json = text.split("```json manifest\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut manifest = Manifest::parse(json.as_bytes()).unwrap();
    manifest.start_lsn = start;
    manifest.stop_lsn = stop;
    manifest.timeline = TimelineId::new(timeline).unwrap();
    manifest.page_errors.clear();
    manifest.wal.clear();
    manifest
}
