//! For tests: which branch a restore follows, and what can be reached along it, in repositories made of facts.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::samples::{file, history, manifest, summary, window};
use super::*;
use crate::error::Kind;
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId};
use crate::repository::{fixture::SIZE, fixture::size};
use crate::world::timeline;

/// A repository made of facts: segments with the second of their commit, and when they were stored.
#[derive(Default)]
struct Facts {
    segments: Vec<(u32, u64, i64)>,
    histories: Vec<(u32, &'static str, i64)>,
    backups: Vec<(u32, u64, i64)>,
    /// When the last commit before a fork in this segment was.
    forked: BTreeMap<u32, i64>,
}

impl Facts {
    fn window(&self) -> RecoveryWindow {
        let mut catalog = Catalog::empty(size());
        let stored = |name: &str, second| {
            let modified = Timestamp::from_second(second).unwrap();
            crate::repository::WalFile { modified, ..file(name, 1) }
        };
        for (of, number, second) in &self.segments {
            let segment = SegmentName::from_number(timeline(*of), *number, size());
            catalog.add(stored(&segment.to_string(), *second));
        }
        for (of, text, second) in &self.histories {
            catalog.add(stored(&format!("{of:08X}.history"), *second));
            catalog = catalog.with_history(*of, Ok(history(*of, text)));
        }
        for (of, number, second) in &self.backups {
            let start = number * u64::from(SIZE);
            let mut manifest = manifest(Lsn::new(start + 40), Lsn::new(start + 400), *of);
            manifest.finished_at = PgTime::from_unix_micros(second * 1_000_000);
            catalog.backups.push(Arc::new(manifest));
        }
        let seconds = &self.segments;
        let answer = |segment: SegmentName, _| {
            let number = segment.number(size());
            let known = seconds.iter().find(|fact| (fact.0, fact.1) == (segment.timeline.get(), number));
            Ok(summary(segment.end(size()), known.unwrap().2))
        };
        window(
            &catalog,
            |segment, _| self.forked.get(&segment.segment).map(|second| at(*second)),
            answer,
            |_, _| panic!(),
            |_, _, _| true,
        )
        .0
    }
}

pub(super) fn at(second: i64) -> PgTime {
    PgTime::from_unix_micros(second * 1_000_000)
}

fn tips(window: &RecoveryWindow) -> Vec<u32> {
    window.tips().map(|branch| branch.timeline().get()).collect()
}

#[test]
fn r30_a_failover_leaves_one_branch() {
    let facts = Facts {
        segments: vec![(1, 3, 10), (1, 4, 20), (2, 5, 30), (2, 6, 40)],
        histories: vec![(2, "1\t0/580000\tx", 29)],
        backups: vec![(1, 3, 9)],
        ..Facts::default()
    };
    let window = facts.window();
    assert_eq!(tips(&window), [2]);
    assert_eq!(window.default_branch().unwrap().timeline().get(), 2);
    assert_eq!(window.branch(timeline(1)).unwrap().continued_by, Some(timeline(2)));
    let branch = window.default_branch().unwrap();
    assert_eq!(RecoveryWindow::instants(branch), [Instants { start: at(9), end: at(40) }]);
    assert_eq!(branch.last_commit(), Some(at(40)));
}

#[test]
fn r30_c_a_rehearsal_that_archives_is_not_followed_and_both_are_named() {
    // The rehearsal forked in segment 4; production went on, and took a backup since.
    let mut facts = Facts {
        segments: vec![(1, 3, 10), (1, 4, 20), (1, 5, 40), (2, 4, 30)],
        histories: vec![(2, "1\t0/480000\tx", 29)],
        backups: vec![(1, 3, 9), (1, 5, 39)],
        ..Facts::default()
    };
    let window = facts.window();
    assert_eq!(tips(&window), [1, 2]);
    assert_eq!(window.last_writer().unwrap().timeline().get(), 1);
    let error = window.default_branch().unwrap_err();
    assert_eq!(error.kind(), Kind::Impossible);
    for part in ["timeline 1 (last commit", "timeline 2, which left timeline 1 at 0/480000"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(error.hint_text().unwrap().contains("--target-timeline 1 or --target-timeline 2"));
    // Not followed either while the rehearsal wrote last.
    facts.segments.push((2, 5, 50));
    let window = facts.window();
    assert_eq!(window.last_writer().unwrap().timeline().get(), 2);
    assert_eq!(window.default_branch().unwrap_err().kind(), Kind::Impossible);
}

#[test]
fn r30_what_an_old_primary_left_stops_nothing_once_the_new_one_has_written_more() {
    let facts = Facts {
        segments: vec![(1, 3, 10), (1, 4, 20), (1, 5, 25), (2, 4, 30), (2, 5, 40)],
        histories: vec![(2, "1\t0/480000\tx", 29)],
        backups: vec![(1, 3, 9)],
        forked: BTreeMap::from([(4, 18)]),
    };
    let window = facts.window();
    assert_eq!(tips(&window), [1, 2]);
    let branch = window.default_branch().unwrap();
    assert_eq!(branch.timeline().get(), 2);
    // A time on the branch that was left, or before the other one began, has two meanings (v).
    for (second, other) in [(9, None), (15, None), (18, None), (22, Some(1)), (28, Some(1)), (35, None)] {
        let found = window.also_on(branch, at(second)).map(|branch| branch.timeline().get());
        assert_eq!(found, other, "second {second}");
    }
}

#[test]
fn r28_a_higher_timeline_that_is_alive_may_take_over_at_any_moment_and_one_that_was_left_does_not() {
    let mut facts = Facts {
        segments: vec![(1, 3, 10), (1, 4, 20), (2, 4, 40), (1, 5, 100)],
        histories: vec![(2, "1\t0/480000\tx", 29)],
        backups: vec![(1, 3, 9)],
        ..Facts::default()
    };
    let leads = |facts: &Facts, of| {
        let window = facts.window();
        window.about_to_lead(timeline(of)).map(Branch::timeline)
    };
    // The last writer is timeline 1; half a minute later it may be the other.
    assert_eq!(facts.window().last_writer().unwrap().timeline(), timeline(1));
    assert_eq!(leads(&facts, 1), Some(timeline(2)));
    // The lower one never takes over in silence.
    assert_eq!(leads(&facts, 2), None);
    facts.segments.push((1, 6, 200));
    assert_eq!(leads(&facts, 1), None, "nothing was heard of it for minutes");
}

#[test]
fn a_timeline_without_a_history_is_not_passed_over() {
    let facts = Facts {
        segments: vec![(1, 3, 10), (1, 4, 20), (3, 5, 30)],
        histories: vec![],
        backups: vec![(1, 3, 9)],
        ..Facts::default()
    };
    let window = facts.window();
    assert_eq!(window.unreadable.len(), 1);
    let error = window.default_branch().unwrap_err();
    assert!(error.to_string().contains("WAL of timeline 3 is stored"), "{error}");
}

#[test]
fn gaps_split_the_instants_and_backups_behind_them_are_stranded() {
    let facts = Facts {
        segments: vec![(1, 3, 10), (1, 4, 20), (1, 6, 30), (1, 7, 40)],
        histories: vec![],
        backups: vec![(1, 3, 9), (1, 5, 25), (1, 7, 35)],
        ..Facts::default()
    };
    let window = facts.window();
    let branch = window.default_branch().unwrap();
    let instants = RecoveryWindow::instants(branch);
    assert_eq!(instants, [Instants { start: at(9), end: at(20) }, Instants { start: at(35), end: at(40) }]);
    assert_eq!(branch.stranded.len(), 1);
    assert_eq!(branch.spans[0].cut, Cut::Missing(SegmentName::from_number(TimelineId::FIRST, 5, size())));
}
