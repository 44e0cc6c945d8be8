//! One rehearsal: restore, recover, open, check. What goes wrong on the way becomes a check that did not pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::canary::Replayed;
use super::checks::{self, Finding, Question, check, of_error};
use super::opened::{Opened, open};
use super::place::Place;
use super::report::{Check, CheckVerdict, Objectives, Phases};
use crate::cluster::{DataDir, PrivateServer, PrivateSettings, ServerPrograms, ServerState};
use crate::error::{Error, Result};
use crate::postgres::{Lsn, PgTime, Recovery, RecoverySettings, RecoveryTarget, TargetAction};
use crate::present::seconds;
use crate::repository::Repository;
use crate::restore::{Handover, Plan, execute, prepare};
use crate::seal::SEALED_WITH;

/// Recovery that restores no segment and says nothing for so long does not go on.
const STALLED: Duration = Duration::from_mins(20);
/// A canary may be so old, however often they are written.
const LEAST_AGE: Duration = Duration::from_secs(15);
/// What a server says that lacks something of this host.
const OF_HOST: [&str; 4] = [
    "resource manager",
    "could not access file",
    "No space left on device",
    "could not map anonymous shared",
];
/// Between two looks at a server that recovers.
const LOOK: Duration = Duration::from_millis(50);

/// What a rehearsal needs.
pub(super) struct Rehearsal<'a> {
    pub(super) repository: &'a Repository,
    pub(super) plan: &'a Plan,
    pub(super) place: &'a Place,
    pub(super) programs: &'a ServerPrograms,
    pub(super) restore_command: String,
    pub(super) candidates: Vec<String>,
    pub(super) questions: &'a [Question],
    pub(super) question_limit: Duration,
    pub(super) amcheck: Option<Duration>,
    pub(super) heartbeat: Duration,
    pub(super) objectives: Objectives,
    pub(super) started_at: PgTime,
    pub(super) count: Arc<dyn Fn(u64) + Send + Sync>,
}

/// What is known so far; kept when a step fails.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) phases: Phases,
    pub(super) checks: Vec<Check>,
    pub(super) reached_lsn: Option<Lsn>,
    pub(super) reached_time: Option<PgTime>,
    pub(super) rpo_seconds: Option<f64>,
    pub(super) bytes: u64,
    pub(super) wal_segments: u64,
    pub(super) created_tablespaces: usize,
    pub(super) postgresql: String,
}

impl Draft {
    pub(super) fn add(&mut self, name: &str, (verdict, detail): Finding, seconds: f64) {
        tracing::info!(check = name, ?verdict, "{detail}");
        self.checks.push(Check { name: name.to_owned(), verdict, detail, seconds });
    }
}

impl Rehearsal<'_> {
    /// All of it. The server is stopped when this returns.
    pub(super) async fn run(&self, draft: &mut Draft) {
        let mut begin = Instant::now();
        let restore_command = self.restore_command.clone();
        let handover = Handover { restore_command, standby: false, archive_off: true, owner: None };
        let restored = match prepare(self.repository, self.plan).await {
            Ok(prepared) => {
                execute(self.repository, self.plan, prepared, &handover, Arc::clone(&self.count)).await
            }
            Err(error) => Err(error),
        };
        draft.phases.fetch = lap(&mut begin);
        match restored {
            Ok(restored) => {
                draft.bytes = restored.bytes;
                draft.add("restore", self.restored(restored.files), draft.phases.fetch);
            }
            Err(error) => return draft.add("restore", of_error(&error), draft.phases.fetch),
        }
        let recovered = self.recover(draft).await;
        draft.phases.replay = lap(&mut begin);
        let server = match recovered {
            Ok(Ok(server)) => server,
            Ok(Err(finding)) => return draft.add("recovery", finding, draft.phases.replay),
            Err(error) => return draft.add("recovery", of_error(&error), draft.phases.replay),
        };
        let opened = open(&server, &self.candidates).await;
        draft.phases.open = lap(&mut begin);
        match opened {
            Ok(opened) => self.check(draft, &server, &opened).await,
            Err(error) => {
                draft.add("open", (CheckVerdict::CouldNotVerify, error.to_string()), draft.phases.open);
            }
        }
        draft.phases.checks = lap(&mut begin);
    }

    fn restored(&self, files: u64) -> Finding {
        let damaged = self.plan.backup.page_errors.len();
        if damaged > 0 {
            let first = &self.plan.backup.page_errors[0];
            return (
                CheckVerdict::Fail,
                format!(
                    "{damaged} pages of the backup failed their checksum, first {} block {}",
                    first.path, first.block
                ),
            );
        }
        (CheckVerdict::Pass, format!("{files} files, every page authenticated"))
    }

    /// Start the server and wait until it accepts connections; the inner error: why it does not.
    async fn recover(&self, draft: &mut Draft) -> Result<Result<PrivateServer, Finding>> {
        let control = DataDir::open(&self.plan.to)?.control()?;
        let (target, timeline) = (self.plan.target.clone(), self.plan.timeline);
        let recovery = Recovery::To { target, action: TargetAction::Promote, timeline };
        let restore_command = self.restore_command.clone();
        let mut recovery = RecoverySettings { recovery, restore_command }.render()?;
        if control.major.get() >= 15 && self.plan.reach.damage.is_some() {
            recovery.push_str("recovery_prefetch = 'off'\n");
        }
        let settings = PrivateSettings {
            data_dir: self.plan.to.clone(),
            directory: self.place.root().to_owned(),
            socket_dir: self.place.socket_dir().to_owned(),
            control,
            recovery,
        };
        let mut server = PrivateServer::start(self.programs, &settings)?;
        let (mut heard, mut heard_at) = (0, Instant::now());
        loop {
            match server.state()? {
                ServerState::Ready => break,
                ServerState::Ended(status) => {
                    draft.wal_segments = server.log().restored_segments();
                    return Ok(Err(why_it_ended(&server, &status.to_string())));
                }
                ServerState::Starting => {}
            }
            let length = server.log().len();
            if length > heard {
                (heard, heard_at) = (length, Instant::now());
            } else if heard_at.elapsed() > STALLED {
                let text = format!("nothing was replayed for {} minutes", STALLED.as_secs() / 60);
                return Ok(Err((CheckVerdict::CouldNotVerify, text)));
            }
            tokio::time::sleep(LOOK).await;
        }
        draft.wal_segments = server.log().restored_segments();
        draft.created_tablespaces = crate::archive::Redirect::below(self.place.created()).count();
        Ok(Ok(server))
    }

    async fn check(&self, draft: &mut Draft, server: &PrivateServer, opened: &Opened) {
        draft.reached_lsn = opened.reached_lsn;
        draft.reached_time = opened.reached_time;
        draft.postgresql.clone_from(&opened.version);
        draft.add("target reached", self.reached(server, opened), 0.0);
        let checks = &mut draft.checks;
        check(checks, "canary", self.canary(opened)).await;
        check(checks, "databases and catalogs", checks::catalogs(server, opened)).await;
        check(checks, "tables and indexes", async {
            match self.amcheck {
                Some(budget) => checks::amcheck(server, opened, self.programs, budget).await,
                None => Ok((CheckVerdict::Skipped, "drill.amcheck is false".to_owned())),
            }
        })
        .await;
        check(checks, "visibility maps", checks::visibility(server, opened)).await;
        let own_role = format!("walproof_drill_{}", std::process::id());
        for question in self.questions {
            let name = format!("query: {}", question.name);
            let asked = checks::question(server, opened, question, &own_role, self.question_limit);
            check(checks, &name, asked).await;
        }
        if self.plan.target == RecoveryTarget::Latest {
            draft.add("RPO objective", self.rpo(opened), 0.0);
            draft.rpo_seconds = self.commit_age(opened);
        }
    }

    /// How old the last commit was when the drill began. What was archived while it ran would have been lost with the
    /// host: it makes this no better.
    fn commit_age(&self, opened: &Opened) -> Option<f64> {
        let known = self.plan.reach.end_time.unwrap_or(self.plan.backup.finished_at);
        let last = opened.reached_time?.min(known);
        Some(self.started_at.seconds_since(last).max(0.0))
    }

    fn rpo(&self, opened: &Opened) -> Finding {
        let Some(age) = self.commit_age(opened) else {
            return (CheckVerdict::CouldNotVerify, "no commit was replayed".to_owned());
        };
        let promised = self.objectives.rpo_seconds;
        let verdict = if age > promised { CheckVerdict::Fail } else { CheckVerdict::Pass };
        let (age, promised) = (seconds(age), seconds(promised));
        (verdict, format!("the last commit was {age} old when the drill began; promised: {promised}"))
    }

    /// What the server says it reached, against what was asked for.
    fn reached(&self, server: &PrivateServer, opened: &Opened) -> Finding {
        let Some(lsn) = opened.reached_lsn else {
            return (CheckVerdict::CouldNotVerify, "the server does not say what it replayed".to_owned());
        };
        let stopped = server.log().stopping_point();
        let time = opened.reached_time.map_or_else(|| "no commit".to_owned(), |time| time.to_string());
        let told = stopped.as_deref().unwrap_or("at the end of the WAL");
        let told = format!("replayed to {lsn}, last commit {time}, stopped {told}");
        let holds = match &self.plan.target {
            RecoveryTarget::Latest => lsn >= self.plan.reach.end,
            RecoveryTarget::Time { time, exclusive } => {
                let early = |at: &PgTime| if *exclusive { at < time } else { at <= time };
                stopped.is_some() && opened.reached_time.as_ref().is_none_or(early)
            }
            RecoveryTarget::Lsn { target, .. } => stopped.is_some() && lsn >= *target,
            RecoveryTarget::Xid { .. } | RecoveryTarget::Name(_) => stopped.is_some(),
            RecoveryTarget::Immediate => lsn >= self.plan.backup.stop_lsn,
        };
        if !holds {
            return (CheckVerdict::Fail, format!("{} was not reached: {told}", self.plan.target));
        }
        match self.followed() {
            Ok(followed) if followed == self.plan.timeline.get() => {
                (CheckVerdict::Pass, format!("{told}, on timeline {followed}"))
            }
            Ok(followed) => {
                (CheckVerdict::Fail, format!("it followed timeline {followed}, not {}", self.plan.timeline))
            }
            Err(error) => of_error(&error),
        }
    }

    /// The timeline that the server left when it opened.
    fn followed(&self) -> Result<u32> {
        let pg_wal = self.plan.to.join("pg_wal");
        let entries = std::fs::read_dir(&pg_wal).map_err(|cause| Error::io("list", &pg_wal, &cause))?;
        let newest = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "history"))
            .map(|entry| entry.path())
            .max()
            .ok_or_else(|| Error::server("the server did not begin a timeline of its own"))?;
        let text = std::fs::read_to_string(&newest).map_err(|cause| Error::io("read", &newest, &cause))?;
        let parent = text.lines().rev().find_map(|line| line.split_whitespace().next()?.parse().ok());
        parent.ok_or_else(|| Error::server("the history of the server's own timeline is malformed"))
    }

    async fn canary(&self, opened: &Opened) -> Result<Finding> {
        if self.heartbeat.is_zero() {
            return Ok((CheckVerdict::Skipped, "archive.heartbeat_interval is 0".to_owned()));
        }
        let Some(reached) = opened.reached_lsn else {
            return Ok((CheckVerdict::CouldNotVerify, "the server does not say what it replayed".to_owned()));
        };
        let identity = self.repository.identity();
        let replayed = Replayed {
            pg_wal: &self.plan.to.join("pg_wal"),
            repository: self.repository,
            archived: &self.plan.reach.path.segments,
            timeline: self.plan.timeline,
            size: identity.segment_size()?,
        };
        let search = replayed.last_canary(reached).await?;
        let until = opened.reached_time.unwrap_or(self.plan.backup.finished_at);
        let allowed = (self.heartbeat * 6).max(LEAST_AGE).as_secs_f64();
        let Some(text) = search.found else {
            let replayed = until.seconds_since(self.plan.backup.started_at);
            return Ok(if replayed < allowed {
                (CheckVerdict::Skipped, format!("{replayed:.0} s of WAL were replayed, too little for one"))
            } else {
                let text = format!("there is none in {} segments: is the daemon running?", search.segments);
                (CheckVerdict::CouldNotVerify, text)
            });
        };
        let at = identity.read_canary(&text)?;
        let age = until.seconds_since(at);
        let told = format!("written by this cluster's daemon at {at}, {age:.1} s before the last commit");
        Ok(if age > allowed {
            (CheckVerdict::Fail, format!("stale: {told}"))
        } else {
            (CheckVerdict::Pass, told)
        })
    }
}

fn lap(begin: &mut Instant) -> f64 {
    let now = Instant::now();
    let seconds = now.duration_since(*begin).as_secs_f64();
    *begin = now;
    seconds
}

/// Absence, damage and a store that is away are different ends.
fn why_it_ended(server: &PrivateServer, status: &str) -> Finding {
    let log = server.log();
    let told = log.failure().unwrap_or_else(|| format!("the server ended ({status})"));
    let of_host = OF_HOST.iter().any(|words| told.contains(words));
    // The store was away, or this host lacks something: that says nothing about the backup.
    let of_fetch = |code| [202, 204, 209].contains(&code) || code == 205 && told.contains(SEALED_WITH);
    let unknown = log.restore_command_failure().map_or(of_host, of_fetch);
    let verdict = if unknown { CheckVerdict::CouldNotVerify } else { CheckVerdict::Fail };
    (verdict, told)
}
