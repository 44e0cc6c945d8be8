//! The state as a whole put into words, on the page and in the terminal alike.

use super::restores::{Threat, threat};
use crate::present::{age, seconds, size, span, utc};
use crate::problem::{Code, Severity};
use crate::snapshot::{Role, Snapshot};

/// How things stand, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Healthy,
    NeedsAttention,
    Failing,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::NeedsAttention => "needs attention",
            Self::Failing => "failing",
        }
    }
}

/// Judge the whole. Without a backup nothing is in order, whether or not somebody filed that as a problem.
pub(super) fn state(snapshot: &Snapshot) -> State {
    if !snapshot.is_healthy() {
        State::Failing
    } else if snapshot.problems.is_empty() && !snapshot.backups.finished.is_empty() {
        State::Healthy
    } else {
        State::NeedsAttention
    }
}

/// What that means, in one or two sentences. The problems themselves are listed below it.
pub(super) fn reason(snapshot: &Snapshot) -> String {
    let of = |severity| snapshot.problems.iter().filter(move |problem| problem.severity == severity).count();
    let counts = [(of(Severity::Critical), "failure"), (of(Severity::Warning), "warning")];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
        .collect();
    let holds = match snapshot.server.role {
        Role::Primary => "everything that was promised holds",
        Role::Standby => "a standby: its primary's host archives, and this one waits",
        Role::Down if snapshot.teller.daemon_since.is_none() => "what is stored is in order",
        Role::Down => "what is stored is in order; the server does not answer",
    };
    let restorable = match snapshot.window.window {
        _ if has_no_backup(snapshot) => NO_BACKUP.to_owned(),
        None => "how far a restore can go is not known yet".to_owned(),
        Some((_, end)) => {
            format!("a restore can go up to {}, {}", utc(end), age(end, snapshot.taken_at))
        }
    };
    match (counts.is_empty(), snapshot.backups.finished.is_empty()) {
        (true, true) => restorable,
        (true, false) => holds.to_owned(),
        (false, _) => format!("{}; {restorable}", counts.join(", ")),
    }
}

/// Whether the repository was listed: until then "no backup" and "no gap" would be guesses.
pub(super) fn was_listed(snapshot: &Snapshot) -> bool {
    snapshot.store.repository_bytes.is_some()
        || !snapshot.backups.finished.is_empty()
        || snapshot.problems.iter().any(|problem| problem.code == Code::NoBackup)
}

/// Whether it is known that there is no backup.
pub(super) fn has_no_backup(snapshot: &Snapshot) -> bool {
    was_listed(snapshot) && snapshot.backups.finished.is_empty()
}

/// Why nothing can be said of the repository.
const UNREAD: &str = "the repository has not been read";
/// What a repository without a backup means.
pub(super) const NO_BACKUP: &str = "no backup yet: nothing can be restored";
/// For what was not asked or not answered so far.
pub(super) const UNKNOWN: &str = "not known yet";

/// A value with the sentence that puts it into proportion.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) value: String,
    pub(super) note: String,
    pub(super) state: State,
}

impl Reading {
    fn new(state: State, value: impl Into<String>, note: impl Into<String>) -> Self {
        Self { value: value.into(), note: note.into(), state }
    }
}

/// What would be lost if the host vanished now, against what was promised.
pub(super) fn rpo(snapshot: &Snapshot) -> Reading {
    let objective = span(snapshot.promises.rpo_objective);
    let Some(lost) = snapshot.estimates.rpo_seconds else {
        return match snapshot.server.role {
            Role::Standby => Reading::new(
                State::Healthy,
                "not claimed here",
                "this server is a standby: its primary's host archives, and knows what would be lost",
            ),
            Role::Down if snapshot.teller.daemon_since.is_none() => Reading::new(
                State::NeedsAttention,
                "not known",
                "only the daemon asks the server what it wrote last",
            ),
            Role::Down => Reading::new(
                State::NeedsAttention,
                "not known",
                "the server does not answer, so it cannot be asked what it wrote last",
            ),
            Role::Primary if has_no_backup(snapshot) => {
                Reading::new(State::NeedsAttention, "everything", NO_BACKUP)
            }
            Role::Primary => Reading::new(State::NeedsAttention, UNKNOWN, format!("objective: {objective}")),
        };
    };
    let lag = snapshot.lag_bytes().filter(|bytes| *bytes > 0);
    let lag = lag.map_or_else(String::new, |bytes| format!("; {} not stored", size(bytes)));
    if lost > snapshot.promises.rpo_objective.as_secs_f64() {
        let note = format!("beyond the objective of {objective}{lag}");
        Reading::new(State::Failing, seconds(lost), note)
    } else if lost > 0.0 {
        let note = format!("within the objective of {objective}{lag}");
        Reading::new(State::Healthy, seconds(lost), note)
    } else {
        let note = format!("all WAL on the server's disk is stored; objective: {objective}");
        Reading::new(State::Healthy, "nothing", note)
    }
}

/// How far back and how far forward a restore can go.
pub(super) fn window(snapshot: &Snapshot) -> Reading {
    let wanted = span(snapshot.promises.retention_window);
    let Some((start, end)) = snapshot.window.window else {
        return if has_no_backup(snapshot) {
            Reading::new(State::NeedsAttention, "none", NO_BACKUP)
        } else {
            Reading::new(State::NeedsAttention, UNKNOWN, format!("wanted: {wanted}"))
        };
    };
    let length = end.seconds_since(start).max(0.0);
    let note = if length < snapshot.promises.retention_window.as_secs_f64() {
        format!("of {wanted} wanted: it is still growing")
    } else {
        format!("covers the {wanted} wanted")
    };
    Reading::new(State::Healthy, seconds(length), note)
}

/// What a restore would take, against what was promised.
pub(super) fn rto(snapshot: &Snapshot) -> Reading {
    let objective = span(snapshot.promises.rto_objective);
    match snapshot.estimates.rto_estimate_seconds {
        None => Reading::new(
            State::Healthy,
            "not measured yet",
            format!("a drill that passes measures it; objective: {objective}"),
        ),
        Some(estimate) => {
            let (state, note) =
                match threat(&snapshot.estimates, snapshot.promises.rto_objective.as_secs_f64()) {
                    Some(Threat::Exceeded) => (State::Failing, "beyond"),
                    Some(Threat::Close) => (State::NeedsAttention, "close to"),
                    None => (State::Healthy, "within"),
                };
            Reading::new(
                state,
                seconds(estimate),
                format!("estimated by drills; {note} the objective of {objective}"),
            )
        }
    }
}

/// The newest backup.
pub(super) fn last_backup(snapshot: &Snapshot) -> Reading {
    let now = snapshot.taken_at;
    let last = snapshot.backups.finished.last();
    let failed = snapshot.backups.last_try_failed_at();
    let failed = failed.map(|at| format!("the last try failed {}", age(at, now)));
    let state = if failed.is_some() { State::NeedsAttention } else { State::Healthy };
    let Some(last) = last else {
        if !has_no_backup(snapshot) {
            return Reading::new(State::NeedsAttention, UNKNOWN, failed.unwrap_or_else(|| UNREAD.to_owned()));
        }
        return Reading::new(State::NeedsAttention, "none", failed.unwrap_or_else(|| NO_BACKUP.to_owned()));
    };
    let took = seconds(last.finished_at.seconds_since(last.started_at).max(0.0));
    let note = failed.unwrap_or_else(|| format!("{} of data, took {took}", size(last.size_bytes)));
    Reading::new(state, age(last.finished_at, now), note)
}

/// The last backup that the daemon took ahead of the timer.
pub(super) fn early_backup(snapshot: &Snapshot) -> Option<String> {
    let early = snapshot.backups.early_backup.as_ref()?;
    let outcome = early.outcome.as_deref().unwrap_or("under way");
    Some(format!("{}, begun {}: {}", outcome, age(early.began_at, snapshot.taken_at), early.because))
}

/// The server in a few words.
pub(super) fn server(snapshot: &Snapshot) -> String {
    let version = match snapshot.server.pg_version.as_str() {
        "" => "version not known yet".to_owned(),
        version => format!("PostgreSQL {version}"),
    };
    let role = match snapshot.server.role {
        Role::Down if snapshot.teller.daemon_since.is_none() => "not asked",
        Role::Down => "does not answer",
        role => role.as_str(),
    };
    let timeline =
        snapshot.server.timeline.map(|timeline| format!(", timeline {timeline}")).unwrap_or_default();
    format!("{role}, {version}{timeline}")
}

/// Whether the store answers.
pub(super) const fn store(snapshot: &Snapshot) -> &'static str {
    match snapshot.store.store_up {
        Some(true) => "up: the last request succeeded",
        Some(false) => "DOWN: the last request failed",
        None => "not asked yet",
    }
}

/// What waits to be archived.
pub(super) fn waiting(snapshot: &Snapshot) -> String {
    match (snapshot.wal.ready, snapshot.wal.oldest_ready) {
        _ if snapshot.teller.daemon_since.is_none() => UNKNOWN.to_owned(),
        (0, _) => "no file".to_owned(),
        (ready, Some(since)) => {
            format!(
                "{}, the oldest for {}",
                files(ready),
                seconds(snapshot.taken_at.seconds_since(since).max(0.0))
            )
        }
        (ready, None) => files(ready),
    }
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// How far the tail reaches.
pub(super) fn tail(snapshot: &Snapshot) -> String {
    snapshot.wal.tail.as_ref().map_or_else(
        || "none is stored".to_owned(),
        |tail| format!("up to {} of {}, {}", tail.end, tail.segment, age(tail.at, snapshot.taken_at)),
    )
}

/// Segments that are missing.
pub(super) fn gaps(snapshot: &Snapshot) -> String {
    match snapshot.wal.gap_segments {
        0 if !was_listed(snapshot) => UNKNOWN.to_owned(),
        0 if snapshot.backups.finished.is_empty() => "none can be: there is no backup yet".to_owned(),
        0 => "none since the newest backup".to_owned(),
        1 => "1 segment is missing since the newest backup".to_owned(),
        missing => format!("{missing} segments are missing since the newest backup"),
    }
}

/// How much is stored.
pub(super) fn repository_size(snapshot: &Snapshot) -> String {
    let Some(bytes) = snapshot.store.repository_bytes else { return UNKNOWN.to_owned() };
    let all = [bytes.pack, bytes.wal, bytes.tail, bytes.other].into_iter().fold(0, u64::saturating_add);
    format!(
        "{} (backups {}, WAL {}, tails {})",
        size(all),
        size(bytes.pack),
        size(bytes.wal),
        size(bytes.tail)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    #[test]
    fn every_state_has_its_word_and_its_reason() {
        let judge = |snapshot: &Snapshot| (state(snapshot).as_str(), reason(snapshot));
        assert_eq!(judge(&samples::busy()), ("healthy", "everything that was promised holds".to_owned()));
        let (word, why) = judge(&samples::store_down());
        assert_eq!(word, "failing");
        assert!(
            why.starts_with("2 failures, 1 warning; a restore can go up to 2026-11-22 06:18:03 UTC"),
            "{why}"
        );
        let mut snapshot = samples::brand_new();
        assert_eq!(judge(&snapshot).0, "failing");
        snapshot.problems.clear();
        // Nothing was read: neither is claimed.
        assert_eq!(judge(&snapshot).0, "needs attention");
        assert!(!judge(&snapshot).1.contains("no backup"), "{}", judge(&snapshot).1);
        assert_eq!((rpo(&snapshot).value.as_str(), window(&snapshot).value.as_str()), (UNKNOWN, UNKNOWN));
        assert_eq!(last_backup(&snapshot).value, UNKNOWN);
        snapshot.store.repository_bytes = samples::busy().store.repository_bytes;
        assert_eq!(judge(&snapshot), ("needs attention", NO_BACKUP.to_owned()));
        assert_eq!(judge(&samples::standby()).0, "healthy");
    }

    #[test]
    fn an_rpo_is_claimed_only_where_it_is_known() {
        assert_eq!(rpo(&samples::busy()).value, "3.4 s");
        assert_eq!(rpo(&samples::store_down()).state, State::Failing);
        assert_eq!(rpo(&samples::standby()).value, "not claimed here");
        let mut snapshot = samples::busy();
        snapshot.estimates.rpo_seconds = None;
        assert_eq!(rpo(&snapshot).value, UNKNOWN);
        snapshot.server.role = Role::Down;
        assert!(rpo(&snapshot).note.contains("does not answer"));
        snapshot.teller.daemon_since = None;
        for text in [&rpo(&snapshot).note, &server(&snapshot), &reason(&snapshot)] {
            assert!(!text.contains("does not answer"), "nobody asked: {text}");
        }
        snapshot.estimates.rpo_seconds = Some(0.0);
        assert_eq!(rpo(&snapshot).value, "nothing");
    }

    #[test]
    fn a_failed_try_is_told_until_a_backup_succeeds() {
        let mut snapshot = samples::busy();
        snapshot.backups.backup_failed_at =
            snapshot.backups.finished.first().map(|backup| backup.finished_at);
        assert!(!last_backup(&snapshot).note.contains("failed"));
        snapshot.backups.backup_failed_at = Some(snapshot.taken_at);
        assert_eq!(last_backup(&snapshot).note, "the last try failed just now");
        snapshot.backups.backup_succeeded_at = Some(snapshot.taken_at);
        assert!(!last_backup(&snapshot).note.contains("failed"));
    }

    #[test]
    fn a_severity_orders_states() {
        assert!(Severity::Warning < Severity::Critical && State::Healthy < State::Failing);
    }
}
