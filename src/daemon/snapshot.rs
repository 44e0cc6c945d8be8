//! What the archiver's ledger knows, as a snapshot.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::drills::DrillsHandle;
use super::early_backup::EarlyHandle;
use super::verifications::VerificationsHandle;
use crate::archive::Destination;
use crate::archiver::Archiver;
use crate::disk::Space;
use crate::error::{Error, Kind};
use crate::format::BackupId;
use crate::ledger::{self, Attempt, Event, Ledger, Now, Obstacle, Stage};
use crate::postgres::{PgTime, WalName};
use crate::repository::{ExpiryRecord, Hold};
use crate::status::{
    Backups, Code, Daemon, Drills, Estimates, Failing, Promises, PushLine, Retention, Role, Server, Snapshot,
    Store, TailLine, Teller, Trouble, Wal, Window, restorable,
};
use crate::window::Branch;

/// Everything that asks what is known asks here.
#[derive(Debug)]
pub(super) struct Desk {
    archiver: Arc<Archiver>,
    since: PgTime,
    place: Place,
    promises: Promises,
    drills: DrillsHandle,
    verifications: VerificationsHandle,
    early: EarlyHandle,
    outlook: Mutex<Option<Outlook>>,
}

/// What retention did and will do, and what that follows from: it is worked out again when that has
/// changed, or after a while.
#[derive(Debug)]
struct Outlook {
    at: Instant,
    backups: Vec<BackupId>,
    holds: Vec<Hold>,
    expiry: ExpiryRecord,
    told: Retention,
}

/// After so long WAL was added that a hold may cost.
const OUTLOOK_LASTS: Duration = Duration::from_mins(10);

/// What is archived, and where to.
#[derive(Debug)]
pub(super) struct Place {
    /// `cluster.name`.
    pub(super) cluster: String,
    /// `repository.url`.
    pub(super) repository: String,
    /// The same for `wal-push`.
    pub(super) destination: Destination,
    /// Where the server writes WAL.
    pub(super) pg_wal: PathBuf,
}

impl Desk {
    pub(super) fn new(archiver: Arc<Archiver>, place: Place, promises: Promises) -> Self {
        Self {
            archiver,
            since: PgTime::now(),
            place,
            promises,
            drills: DrillsHandle::default(),
            verifications: VerificationsHandle::default(),
            early: EarlyHandle::default(),
            outlook: Mutex::default(),
        }
    }

    /// Whether a client's configuration means this repository; that it means another one is a problem until it no
    /// longer does.
    pub(super) fn is_ours(&self, destination: &Destination) -> bool {
        let ours = *destination == self.place.destination;
        if self.archiver.ledger().read(|ledger| ledger.misdirected) == ours {
            self.archiver.ledger().apply(Event::Misdirected(!ours), Now::read());
            if !ours {
                let error = misdirected();
                tracing::error!(%error, hint = error.hint_text(), "wal-push archives by itself");
            }
        }
        ours
    }

    /// Where verifications are known.
    pub(super) const fn verifications_handle(&self) -> &VerificationsHandle {
        &self.verifications
    }

    /// Where the last early backup is known.
    pub(super) const fn early_handle(&self) -> &EarlyHandle {
        &self.early
    }

    /// Where drills are known.
    pub(super) const fn drills_handle(&self) -> &DrillsHandle {
        &self.drills
    }

    fn drills(&self, now: PgTime) -> Drills {
        self.drills.get().summary(now, self.promises.drill_every)
    }

    /// By the rates of drills, from the newest backup and the WAL that follows it.
    fn estimates(&self, ledger: &Ledger, now: Now) -> Estimates {
        let (rto_estimate_seconds, rto_after_backup_seconds) = ledger
            .coverage()
            .map(|coverage| self.drills.get().estimate(coverage.catalog(), coverage.history()))
            .unwrap_or_default();
        Estimates { rpo_seconds: ledger.rpo(now.instant), rto_estimate_seconds, rto_after_backup_seconds }
    }

    fn retention(&self, ledger: &Ledger, now: Now) -> Retention {
        let Some((coverage, window)) = ledger.coverage().zip(ledger.window.as_ref()) else {
            return Retention::default();
        };
        let catalog = coverage.catalog();
        let mut outlook = self.outlook.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = || catalog.backups.iter().map(|backup| &backup.id);
        let holds_still = |known: &Outlook| {
            known.at.elapsed() < OUTLOOK_LASTS
                && known.backups.iter().eq(ids())
                && known.holds == catalog.holds
                && known.expiry == catalog.expiry
                && known.told.expires_next.as_ref().is_none_or(|next| next.at > now.time)
        };
        if let Some(known) = outlook.as_ref().filter(|known| holds_still(known)) {
            return known.told.clone();
        }
        let told = restorable::retention(catalog, window, self.promises.retention_window, now.time);
        *outlook = Some(Outlook {
            at: now.instant,
            backups: ids().cloned().collect(),
            holds: catalog.holds.clone(),
            expiry: catalog.expiry.clone(),
            told: told.clone(),
        });
        told
    }

    /// What archives.
    pub(super) const fn archiver(&self) -> &Arc<Archiver> {
        &self.archiver
    }

    /// What is known, without asking anybody.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.archiver.ledger().read(|ledger| self.of(ledger, Now::read()))
    }

    /// The same after asking the server how far WAL is flushed; nothing here asks the store.
    pub(super) async fn fresh_snapshot(&self) -> Snapshot {
        self.archiver.fresh_ledger().await.read(|ledger| self.of(ledger, Now::read()))
    }

    /// What a ledger says at `now`.
    pub(super) fn of(&self, ledger: &Ledger, now: Now) -> Snapshot {
        let snapshot = Snapshot {
            taken_at: now.time,
            cluster: self.place.cluster.clone(),
            promises: self.promises,
            teller: Teller {
                daemon: Daemon::Runs,
                daemon_since: Some(self.since),
                daemon_error: None,
                obstacle: ledger.obstacle.as_ref().map(obstacle).or_else(|| {
                    ledger.misdirected.then(|| Trouble::new(Code::ConfigurationChanged, &misdirected()))
                }),
            },
            server: server(ledger),
            wal: Wal { disk_free: Space::at(&self.place.pg_wal).ok().map(|space| space.free), ..wal(ledger) },
            estimates: self.estimates(ledger, now),
            backups: Backups { early_backup: self.early.get(), ..backups(ledger, now.time) },
            window: window(ledger),
            verifications: self.verifications.get(),
            retention: self.retention(ledger, now),
            drills: self.drills(now.time),
            store: Store {
                repository: self.place.repository.clone(),
                repository_bytes: ledger.bytes.map(restorable::bytes),
                store_up: ledger.store_up,
                survey_error: ledger.survey_error.clone(),
            },
            counts: Some(ledger.counts),
            problems: Vec::new(),
        };
        snapshot.judged()
    }
}

fn misdirected() -> Error {
    Error::usage("archive_command is configured for a different repository than this daemon")
        .hint("was the configuration changed? restart the daemon")
}

fn obstacle(obstacle: &Obstacle) -> Trouble {
    match obstacle.stage {
        Stage::DataDirectory => Trouble::new(Code::DataDirectory, &obstacle.error),
        Stage::Repository => Trouble::of_repository(&obstacle.error),
    }
}

fn server(ledger: &Ledger) -> Server {
    let role = match ledger.role() {
        ledger::Role::Primary => Role::Primary,
        ledger::Role::Standby => Role::Standby,
        ledger::Role::Down => Role::Down,
    };
    Server {
        system_identifier: ledger.system_identifier.map(|id| id.to_string()).unwrap_or_default(),
        pg_version: ledger.facts.version.clone(),
        timeline: ledger.coverage().map(|coverage| coverage.history().timeline.get()),
        role,
        archive_mode: ledger.facts.archive_mode.clone(),
        calls_us: ledger.facts.calls_us,
        archiver_failure: ledger.facts.archiver_failure.clone(),
        server_error: ledger.server_error.as_ref().map(|error| {
            Trouble::new(if ledger.wrong_server { Code::WrongServer } else { Code::ServerDown }, error)
        }),
    }
}

fn wal(ledger: &Ledger) -> Wal {
    let coverage = ledger.coverage();
    let archived = coverage.map(ledger::Coverage::archived);
    let beyond = |tail: &ledger::StoredTail| archived.is_none_or(|archived| tail.end > archived);
    Wal {
        disk_free: None,
        flushed: ledger.end_of_wal(),
        stored: coverage.map(ledger::Coverage::stored),
        archived,
        ready: ledger.ready.0,
        oldest_ready: ledger.ready.1,
        gap_segments: coverage.map_or(0, |coverage| coverage.holes().len() as u64),
        first_gap: coverage.and_then(|coverage| coverage.holes().first().map(ToString::to_string)),
        last_push: ledger.last_push,
        failing: ledger.failing.iter().map(|(name, error)| failing(name, error)).collect(),
        recent: ledger.recent.iter().map(push_line).collect(),
        tail: ledger.tail.filter(beyond).map(|tail| TailLine {
            segment: tail.segment.to_string(),
            end: tail.end,
            at: tail.at,
        }),
        tail_error: ledger.tail_error.as_ref().map(ToString::to_string),
    }
}

fn failing(name: &WalName, error: &Error) -> Failing {
    let code = match (error.kind(), name) {
        (Kind::Conflict, _) => Code::Conflict,
        (Kind::Unreachable | Kind::Denied, _) => Code::ArchivingFailed,
        (_, WalName::History(_)) => Code::HistoryRefused,
        _ => Code::ArchivingFailed,
    };
    Failing { name: name.to_string(), trouble: Trouble::new(code, error) }
}

fn push_line(attempt: &Attempt) -> PushLine {
    PushLine {
        name: attempt.name.to_string(),
        at: attempt.at,
        seconds: attempt.took.as_secs_f64(),
        raw_bytes: attempt.bytes.0,
        stored_bytes: attempt.bytes.1,
        error: attempt.error.as_ref().map(ToString::to_string),
    }
}

/// Those that lead to what the server writes.
fn backups(ledger: &Ledger, now: PgTime) -> Backups {
    let known = ledger.coverage().map(|coverage| {
        let (catalog, history) = (coverage.catalog(), coverage.history());
        restorable::backups(catalog, ledger.own_branch(), |backup| Branch::leads_here(history, backup))
    });
    let catalog = ledger.coverage().map(ledger::Coverage::catalog);
    known.unwrap_or_default().with_failure(catalog, ledger.backup_failed_at, now)
}

/// As of the last survey, and what was stored since.
fn window(ledger: &Ledger) -> Window {
    let Some(known) = &ledger.window else { return Window::default() };
    let ours = ledger.own_branch();
    let mut window = restorable::window(known, ours.or_else(|| known.last_writer()));
    // What was stored since leads on from where the WAL ends, and not from a hole or damage.
    let leads_on = |branch: &Branch| branch.farthest().is_some_and(|span| !span.cut.is_fault());
    if let (Some((_, end)), true) = (&mut window.window, ours.is_some_and(leads_on)) {
        *end = ledger.last_time().unwrap_or(*end);
        // Between the last commit before a backup and that backup's end nothing could be reached until this one came.
        let behind = ours.and_then(Branch::farthest).and_then(|span| span.end_time);
        window.window_gaps.retain(|(from, to)| Some(*from) != behind || *to >= *end);
    }
    window.window_faults.extend(faults(ledger));
    window
}

/// What is stored that a restore would give, or once gave, and that is not this server's.
fn faults(ledger: &Ledger) -> impl Iterator<Item = Trouble> {
    let fault = |code, text: String, hint: &str| Trouble { code, text, hint: Some(hint.to_owned()) };
    let diverged = ledger.divergence().map(|(stored, flushed)| {
        format!("WAL is stored up to {stored}, but this server has flushed only up to {flushed}: what is stored was written by another life of this cluster")
    });
    let other = ledger.other_tail().map(|(segment, end)| {
        format!("the tail of {segment} that is stored up to {end} is not what this server has written there: another life of this cluster wrote it, and nothing else may hold it")
    });
    let diverged = diverged.or(other).map(|text| fault(Code::Diverged, text, "was the data directory put back to an older copy? restore into a new directory instead, or give this copy a repository of its own"));
    let second = ledger.second_writer().map(|segment| {
        let text = format!("another server stores the tail of {segment}, and a restore would take that one");
        let hint =
            "do two servers archive to this repository? is a copy or a standby running with archiving on?";
        fault(Code::SecondWriter, text, hint)
    });
    let beside = ledger.beside().map(|(timeline, end)| {
        let text = format!("another server still writes timeline {timeline}, up to {end} now: what is committed there is not on this server's branch");
        fault(Code::ForeignTimeline, text, "is it the old primary, still alive after a failover, or a restored copy? stop it; pg_rewind or a restore makes it a standby")
    });
    let astray = ledger.led_astray().map(|timeline| {
        let text = format!("a restore would follow timeline {timeline}, which this server does not write");
        fault(Code::ForeignTimeline, text, "was a restored copy or a standby started with archiving on? take a backup here; restore with --target-timeline until then")
    });
    diverged.into_iter().chain(second).chain(beside).chain(astray)
}
