//! Drills: a restore is rehearsed, checked and timed, and leaves evidence that anybody can check.
//!
//! A target in the window -> restore -> a private server -> reached? -> checks -> stop, wipe -> verdict, signed report.

mod canary;
mod checks;
mod envelope;
mod estimate;
mod evidence;
pub mod html;
mod opened;
mod place;
mod rehearse;
mod report;
mod target;
#[cfg(test)]
mod tests;
pub mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::signing::{DrillKey, PublicKey, hex_digest};
pub use checks::Question;
pub use envelope::{Head, Link, open_link, read_unproven};
pub use estimate::estimate;
pub use evidence::{Evidence, Memory, Proven, Stored, append};
pub use report::{Check, CheckVerdict, Entry, Note, Objectives, Phases, Report, Verdict, Versions, judge};
pub use target::Aim;

use crate::cluster::{ServerPrograms, user_name};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::Manifest;
use crate::format::{Protection, Purpose, WalFrom};
use crate::postgres::{Major, PgTime, TargetAction, TimelineId};
use crate::present::seconds;
use crate::repository::{Lease, Repository};
use crate::restore::{Plan, RestoreRequest};
use crate::seal::fill_random;
use crate::window::{Chooser, Cut, Records, WalTimes, look};
use place::Place;
use rehearse::{Draft, Rehearsal};
use target::{Aimed, take_aim};

/// What is asked of a drill.
pub struct Request<'a> {
    /// `drill.directory`.
    pub directory: PathBuf,
    /// Where to.
    pub aim: Aim,
    /// What was promised.
    pub objectives: Objectives,
    /// Signs the report.
    pub key: &'a DrillKey,
    /// How the server gets WAL, with a directory for tablespaces that are created in it.
    pub restore_command: &'a (dyn Fn(&std::path::Path, TimelineId) -> Result<String> + Sync),
    /// Roles that may be the cluster's superuser.
    pub superusers: Vec<String>,
    /// The operator's questions.
    pub questions: Vec<Question>,
    /// Time for each of them.
    pub question_limit: Duration,
    /// Time for checking tables and indexes; `None`: they are not.
    pub amcheck: Option<Duration>,
    /// `archive.heartbeat_interval`.
    pub heartbeat: Duration,
    /// When the command began.
    pub began: (Instant, PgTime),
    /// Hears how many bytes there are to restore.
    pub total: Arc<dyn Fn(u64) + Send + Sync>,
    /// Hears of every restored byte.
    pub count: Arc<dyn Fn(u64) + Send + Sync>,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("directory", &self.directory)
            .field("aim", &self.aim)
            .finish_non_exhaustive()
    }
}

/// Rehearse a restore. The evidence is in the repository when this returns; an error means that there was no drill.
/// `stop` ends it early.
pub async fn run(
    repository: &Repository,
    request: &Request<'_>,
    stop: impl Future<Output = ()>,
) -> Result<Proven> {
    if rustix::process::geteuid().is_root() {
        return Err(Error::usage("a drill starts PostgreSQL, which refuses to run as root")
            .hint("run it as an ordinary user: sudo -u postgres walproof drill"));
    }
    let place = Place::make(&request.directory)?;
    let memory = Memory::of(&request.directory, repository);
    let result = in_place(repository, request, &place, &memory, stop).await;
    let wiped = place.wipe().context("clear away the rehearsal");
    let proven = result?;
    wiped?;
    Ok(proven)
}

async fn in_place(
    repository: &Repository,
    request: &Request<'_>,
    place: &Place,
    memory: &Memory,
    stop: impl Future<Output = ()>,
) -> Result<Proven> {
    let stored = Stored::read(repository).await?;
    let keys = [request.key.public()];
    let before = stored.judge(&keys, memory.recall().as_ref());
    for tampered in &before.tampered {
        tracing::error!("evidence: {tampered}");
    }
    let mut draft = Draft::default();
    let looked = lookup(repository, request, place, &before).await;
    let (prepared, lease) = match looked {
        Ok(prepared) => {
            let lease = Lease::take(repository, Purpose::Drill, prepared.protects()).await?;
            if let Err(gone) = repository.still_has(&prepared.plan.backup.id).await {
                lease.release().await?;
                return Err(gone);
            }
            (Some(prepared), lease)
        }
        // What was asked for by hand and cannot be is the asker's; what was promised and is not there is a finding.
        Err(Failure::Finding(error)) if !matches!(request.aim, Aim::Given(_)) => {
            let lease = Lease::take(repository, Purpose::Drill, Protection::default()).await?;
            draft.phases.lookup = request.began.0.elapsed().as_secs_f64();
            draft.add("recovery window", checks::of_error(&error), draft.phases.lookup);
            (None, lease)
        }
        Err(Failure::Finding(error) | Failure::Unprepared(error)) => return Err(error),
    };
    if let Some(prepared) = &prepared {
        draft.phases.lookup = request.began.0.elapsed().as_secs_f64();
        draft.add("recovery window", prepared.window.clone(), draft.phases.lookup);
        (request.total)(prepared.plan.backup.size_bytes);
        let rehearsal = prepared.rehearsal(repository, request, place);
        let interrupted = tokio::select! {
            () = rehearsal.run(&mut draft) => false,
            () = stop => true,
            lost = lease.lost() => return Err(lost),
        };
        if interrupted {
            lease.release().await?;
            return Err(Error::new(Kind::Other, "the drill was stopped before its end"));
        }
    }
    let report = report(request, repository, prepared.as_ref(), draft)?;
    lease.still_held()?;
    // Another host's drill may have put one meanwhile only before we had the lease.
    let stored = Stored::read(repository).await?;
    let newest = stored.envelopes.iter().map(|(sequence, ..)| *sequence).max().unwrap_or(0);
    let evidence = stored.judge(&keys, memory.recall().as_ref());
    let entry = Entry::Drill(Box::new(report));
    let proven = append(repository, request.key, Some(memory), &evidence, newest, entry).await?;
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "the drill's lease is left to expire");
    }
    Ok(proven)
}

/// Why there is nothing to rehearse.
enum Failure {
    /// Of the repository.
    Finding(Error),
    /// Of this host.
    Unprepared(Error),
}

/// What a drill is about to do.
struct Prepared {
    plan: Plan,
    choice: String,
    programs: ServerPrograms,
    window: checks::Finding,
    estimate: Option<f64>,
    restore_command: String,
}

async fn lookup(
    repository: &Repository,
    request: &Request<'_>,
    place: &Place,
    before: &Evidence,
) -> Result<Prepared, Failure> {
    let (aimed, window) = aim(repository, request).await.map_err(Failure::Finding)?;
    let prepare = || {
        let backup = &aimed.chosen.backup;
        let tablespaces = backup
            .tablespaces
            .iter()
            .map(|tablespace| (tablespace.location.as_path().to_owned(), place.tablespace(tablespace.oid)));
        let restore = RestoreRequest {
            to: place.data_dir(),
            target: aimed.wanted.target.clone(),
            action: TargetAction::Promote,
            timeline: aimed.wanted.timeline,
            backup: aimed.wanted.backup.clone(),
            tablespaces: tablespaces.collect(),
            delta: false,
        };
        let plan = Plan::of(aimed.chosen.clone(), &restore)?;
        let major = u16::try_from(plan.backup.pg_version_num / 10_000).ok().and_then(Major::from_number);
        let major = major.ok_or_else(|| Error::server("the backup is of an unknown PostgreSQL version"))?;
        let programs = ServerPrograms::find(major)?;
        if request.amcheck.is_some() && major.get() >= 14 {
            programs.require(
                "pg_amcheck",
                "install PostgreSQL's client programs, or set drill.amcheck = false",
            )?;
        }
        plan.check_directories()?;
        let segments = plan.reach.path.segments.len() as u64;
        place.check_room(plan.backup.size_bytes, segments * repository.identity().segment_size()?.bytes())?;
        let measured = before.drills().rev().map(|(_, report)| report);
        let estimate = estimate(measured, plan.backup.size_bytes, segments);
        let restore_command = (request.restore_command)(&place.created(), plan.timeline)?;
        Ok(Prepared { plan, choice: aimed.choice.clone(), programs, window, estimate, restore_command })
    };
    prepare().map_err(Failure::Unprepared)
}

async fn aim(repository: &Repository, request: &Request<'_>) -> Result<(Aimed, checks::Finding)> {
    let listing = repository.list().await?;
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await?;
    let mut chooser =
        Chooser { repository, catalog: &catalog, window: &window, times: &mut times, progress: &|_, _| {} };
    let aimed = take_aim(&mut chooser, &request.aim).await?;
    let branch = window.branch(aimed.chosen.branch);
    let fault = branch.and_then(|branch| branch.farthest()).filter(|span| span.cut.is_fault());
    let finding = match fault {
        Some(span) => {
            let told = format!("{}: nothing after {} can be reached", fault_of(&span.cut), span.end);
            // What waits for a key that this host lacks may be as it should.
            let waits = matches!(&span.cut, Cut::Unusable(_, error) if error.kind() == Kind::KeyMissing);
            (if waits { CheckVerdict::CouldNotVerify } else { CheckVerdict::Fail }, told)
        }
        None => (
            CheckVerdict::Pass,
            format!("backup {} leads to {}", aimed.chosen.backup.id, aimed.wanted.target),
        ),
    };
    Ok((aimed, finding))
}

fn fault_of(cut: &Cut) -> String {
    match cut {
        Cut::End => "the WAL ends".to_owned(),
        Cut::Missing(segment) => format!("segment {segment} is missing"),
        Cut::Unusable(segment, error) => format!("segment {segment} cannot be used: {error}"),
    }
}

impl Prepared {
    fn protects(&self) -> Protection {
        let backup = &self.plan.backup;
        let wal = vec![WalFrom { timeline: backup.timeline, start: backup.start_lsn }];
        Protection { backups: vec![backup.id.clone()], wal }
    }

    /// Roles that may be the cluster's superuser, the likeliest first.
    fn superusers(&self, request: &Request<'_>) -> Vec<String> {
        let known = self.plan.backup.superuser.iter();
        known.chain(request.superusers.iter()).cloned().collect()
    }

    fn rehearsal<'a>(
        &'a self,
        repository: &'a Repository,
        request: &'a Request<'_>,
        place: &'a Place,
    ) -> Rehearsal<'a> {
        Rehearsal {
            repository,
            plan: &self.plan,
            place,
            programs: &self.programs,
            restore_command: self.restore_command.clone(),
            candidates: self.superusers(request),
            questions: &request.questions,
            question_limit: request.question_limit,
            amcheck: request.amcheck,
            heartbeat: request.heartbeat,
            objectives: request.objectives,
            started_at: request.began.1,
            count: Arc::clone(&request.count),
        }
    }
}

fn report(
    request: &Request<'_>,
    repository: &Repository,
    prepared: Option<&Prepared>,
    mut draft: Draft,
) -> Result<Report> {
    let rto_seconds = draft.phases.total();
    if draft.phases.checks > 0.0 {
        let promised = request.objectives.rto_seconds;
        let verdict = if rto_seconds > promised { CheckVerdict::Fail } else { CheckVerdict::Pass };
        draft.add(
            "RTO objective",
            (verdict, format!("{}; promised: {}", seconds(rto_seconds), seconds(promised))),
            0.0,
        );
    }
    let (verdict, reasons) = judge(&draft.checks);
    let mut random = [0; 4];
    fill_random(&mut random)?;
    let started_at = request.began.1;
    let day = started_at.timestamp().strftime("%Y%m%dT%H%M%SZ");
    let identity = repository.identity();
    let plan = prepared.map(|prepared| &prepared.plan);
    let host = crate::disk::host_name();
    let user = user_name(rustix::process::geteuid().as_raw());
    Ok(Report {
        id: format!("{day}-{:08x}", u32::from_le_bytes(random)),
        cluster: identity.cluster.to_string(),
        system_identifier: identity.system_identifier.to_string(),
        started_at,
        finished_at: PgTime::now(),
        ran_by: format!("user {user} on {host}"),
        target: plan.map_or_else(|| "none".to_owned(), |plan| plan.target.to_string()),
        target_choice: prepared.map_or_else(String::new, |prepared| prepared.choice.clone()),
        backup: plan.map(|plan| plan.backup.id.to_string()),
        backup_digest: plan.map(|plan| manifest_digest(&plan.backup)).transpose()?,
        timeline: plan.map(|plan| plan.timeline),
        branch: plan.map(|plan| plan.branch),
        reached_lsn: draft.reached_lsn,
        reached_time: draft.reached_time,
        rpo_seconds: draft.rpo_seconds,
        rto_seconds,
        phases: draft.phases,
        bytes: draft.bytes,
        wal_segments: draft.wal_segments,
        objectives: request.objectives,
        estimate_seconds: prepared.and_then(|prepared| prepared.estimate),
        verdict,
        reasons,
        versions: Versions {
            walproof: env!("CARGO_PKG_VERSION").to_owned(),
            postgresql: draft.postgresql,
            backup_postgresql: plan.map(|plan| plan.backup.pg_version()).unwrap_or_default(),
        },
        isolation: isolation(draft.created_tablespaces),
        checks: draft.checks,
    })
}

fn manifest_digest(manifest: &Manifest) -> Result<String> {
    let text = serde_json::to_vec(manifest)
        .map_err(|cause| Error::corrupt(format!("write the manifest: {cause}")))?;
    Ok(hex_digest(&text))
}

/// How the rehearsal was kept apart from production, for whoever reads the report.
fn isolation(created: usize) -> Vec<String> {
    let mut told: Vec<String> = [
        "the server listened on a private socket only, and on no network",
        "it could not archive, and no subscription, standby connection or background job could start",
        "no library was preloaded, no event trigger could fire, and no function that leaves the database could be called",
        "queries ran in read-only transactions, as roles that are not superusers",
        "all tablespaces lay in the drill's own directory",
    ]
    .map(str::to_owned)
    .to_vec();
    if created > 0 {
        told.push(format!(
            "{created} tablespaces that were created in the replayed WAL were put there as well"
        ));
    }
    told
}
