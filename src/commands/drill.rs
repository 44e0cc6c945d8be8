//! `drill`: rehearse a restore and prove it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tracing_subscriber::filter::LevelFilter;

use super::backup;
use super::drill_evidence;
use super::restore;
use crate::archive::Request::Proven;
use crate::backup::Progress;
use crate::cli::{args::Drill, args::Global, context, server_view, start};
use crate::cluster::user_name;
use crate::config::{Config, DrillTarget};
use crate::daemon::read_drills;
use crate::disk::durable;
use crate::drill::{Aim, DrillKey, Entry, Objectives, Question, Request, run};
use crate::error::{Error, Result};
use crate::postgres::{PgTime, TimelineId, restore_command_argument};
use crate::seal::fill_random;
use crate::status::drill_textfile;
use crate::store::Policy;
use crate::window::Wanted;

pub(super) fn drill(global: &Global, arguments: &Drill) -> Result<u8> {
    let began = (Instant::now(), PgTime::now());
    let config = start::configure(global, LevelFilter::INFO)?;
    config.repository.refuse_root()?;
    let key = DrillKey::parse(&config.drill_signing_key()?)?;
    let aim = aim(&config, arguments)?;
    let namespace = config.namespace(Policy::default())?;
    let progress = Arc::new(Progress::default());
    let (total, count) = (Arc::clone(&progress), Arc::clone(&progress));
    start::run_large(async {
        let repository = context::open(&config, &namespace, None).await?;
        let system_identifier = repository.identity().system_identifier;
        let restore_command = |created: &Path, follows: TimelineId| {
            restore_command(&config, system_identifier, created, follows)
        };
        let request = Request {
            directory: config.drill.directory.clone(),
            aim,
            objectives: objectives(&config),
            key: &key,
            restore_command: &restore_command,
            superusers: superusers(&config),
            questions: questions(&config),
            question_limit: arguments.query_timeout,
            amcheck: config.drill.amcheck.then_some(arguments.amcheck_budget),
            heartbeat: config.archive.heartbeat_interval,
            began,
            total: Arc::new(move |bytes| total.begin(bytes)),
            count: Arc::new(move |bytes| count.add(bytes)),
        };
        let bar = backup::draw(global, progress);
        let proven = run(&repository, &request, stopped()).await;
        bar.abort();
        let proven = proven?;
        let Entry::Drill(report) = &proven.link.entry else {
            return Err(Error::corrupt("the drill left something other than a report"));
        };
        context::tell_daemon(&config, &Proven);
        if let Some(path) = &arguments.textfile {
            let drills = read_drills(&repository).await.summary(PgTime::now(), config.drill.every);
            write_textfile(path, &drill_textfile(config.cluster.as_str(), &drills))?;
        }
        drill_evidence::show(global, &proven)?;
        Ok(report.verdict.exit_code())
    })
}

/// For node_exporter: it never sees half a file.
fn write_textfile(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("prom.new");
    durable::write_file(&new, text.as_bytes(), 0o644)?;
    durable::rename(&new, path)
}

async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn aim(config: &Config, arguments: &Drill) -> Result<Aim> {
    let target = &arguments.target;
    if target.target_action.is_some() {
        return Err(Error::usage("--target-action does not apply to a drill: its server always opens"));
    }
    let given = target.target_time.is_some()
        || target.target_lsn.is_some()
        || target.target_xid.is_some()
        || target.target_name.is_some()
        || target.target_immediate;
    if given || target.target_timeline.is_some() || arguments.backup.is_some() {
        let (timeline, backup) = (target.target_timeline, arguments.backup.clone());
        let target = restore::recovery_target(target.clone())?;
        return Ok(Aim::Given(Wanted { target, timeline, backup }));
    }
    restore::recovery_target(target.clone())?;
    match (arguments.seed, config.drill.target) {
        (Some(seed), _) => Ok(Aim::Random(seed)),
        (None, DrillTarget::Latest) => Ok(Aim::Latest),
        (None, DrillTarget::Random) => {
            let mut random = [0; 8];
            fill_random(&mut random)?;
            // Short enough to be typed again.
            Ok(Aim::Random(u64::from_le_bytes(random) >> 32))
        }
    }
}

fn objectives(config: &Config) -> Objectives {
    Objectives {
        rpo_seconds: config.rpo_objective.as_secs_f64(),
        rto_seconds: config.rto_objective.as_secs_f64(),
        every_seconds: config.drill.every.as_secs_f64(),
    }
}

fn restore_command(
    config: &Config,
    system_identifier: u64,
    created: &Path,
    follows: TimelineId,
) -> Result<String> {
    let command = server_view::restore_command(config, system_identifier, Some(follows))?;
    let created = created.to_str().ok_or_else(|| Error::usage("drill.directory is not text"))?;
    Ok(format!("{command} --redirect-tablespaces {}", restore_command_argument(created)))
}

/// Who may be the superuser of the restored cluster.
fn superusers(config: &Config) -> Vec<String> {
    let configured = config
        .conninfo()
        .ok()
        .and_then(|text| text.parse::<tokio_postgres::Config>().ok()?.get_user().map(str::to_owned));
    let me = user_name(rustix::process::geteuid().as_raw());
    let mut all: Vec<String> = configured.into_iter().chain(["postgres".to_owned(), me]).collect();
    all.dedup();
    all
}

fn questions(config: &Config) -> Vec<Question> {
    let question = |query: &crate::config::DrillQuery| Question {
        name: query.name.clone(),
        database: query.database.clone(),
        sql: query.sql.clone(),
        role: query.role.clone(),
    };
    config.drill.queries.iter().map(question).collect()
}
