//! `wal-push` and `wal-list`.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::archive::{self, Ask, Asked, Pushed};
use crate::cli::{args::Global, args::Which, context::Context, output, start};
use crate::cluster::DataDir;
use crate::config::Config;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::ControlFile;
use crate::store::Policy;
use crate::window::{Catalog, Records};

/// R5: whatever happens, the answer comes within `archive.timeout`. The daemon, if there is one, is asked first: mostly
/// it has shipped the file already. What it cannot do within half of the time is done here.
pub(super) fn push(global: &Global, path: &Path) -> Result<u8> {
    let begin = Instant::now();
    let config = Config::load(&global.config)?;
    let context = || format!("archive {}", path.display());
    let data_dir = data_dir(&config);
    let control = DataDir::open(data_dir).and_then(|data_dir| data_dir.control()).with_context(context)?;
    archive::refuse_foreign(path, data_dir, &control).with_context(context)?;
    let (system_identifier, destination) = (control.system_identifier, config.destination());
    let ask = Ask { path, system_identifier, destination };
    let why = match archive::ask(&config.archive.socket, ask, config.archive.timeout / 2) {
        Asked::Stored => {
            if global.json {
                output::json(&json!({ "name": file_name(path), "by_daemon": true }))?;
            }
            return Ok(0);
        }
        Asked::Refused(error) => return Err(error).with_context(context),
        Asked::DoItYourself(why) => why,
    };
    start::log(global, config.log_json, LevelFilter::WARN);
    tracing::debug!(why, "push without the daemon");
    let end = begin + config.archive.timeout;
    let pushed = push_until(&config, &control, path, end).with_context(context)?;
    tracing::info!(name = %pushed.name, stored = pushed.stored_len, already_there = pushed.already_there, "archived");
    if global.json {
        output::json(&json!({
            "name": pushed.name.to_string(),
            "already_there": pushed.already_there,
            "raw_bytes": pushed.raw_len,
            "stored_bytes": pushed.stored_len,
            "by_daemon": false,
        }))?;
    }
    Ok(0)
}

/// Not inlined: mostly the daemon has shipped the file, and what this needs on the stack is not touched.
#[inline(never)]
fn push_until(config: &Config, control: &ControlFile, path: &Path, end: Instant) -> Result<Pushed> {
    config.repository.refuse_root()?;
    let left = || end.saturating_duration_since(Instant::now());
    // A command for the key takes its time out of the whole.
    let namespace = config.namespace(Policy::within(left()))?;
    start::run_small(async {
        let push = archive::push(&namespace, control, path);
        tokio::time::timeout(left(), push).await.unwrap_or_else(|_| {
            let allowed = humantime::format_duration(config.archive.timeout);
            Err(Error::new(Kind::Unreachable, format!("not done within {allowed} (archive.timeout)"))
                .hint("is the store slow, or the network down? PostgreSQL will try again"))
        })
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Of the cluster that archives: the configured one, else the working directory, in which PostgreSQL runs its commands.
fn data_dir(config: &Config) -> &Path {
    config.data_dir_if_set().unwrap_or(Path::new("."))
}

pub(super) fn list(global: &Global, which: Which) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Policy::interactive())?;
    let catalog = start::run_large(async {
        let repository = context.repository(which.system_identifier).await?;
        let (listing, mut records) = (repository.list().await?, Records::default());
        records.read(&repository, &listing).await?;
        Ok(Catalog::of(&listing, &records, repository.identity().segment_size()?))
    })?;
    if global.json { list_json(&catalog) } else { list_text(&catalog) }?;
    Ok(0)
}

fn list_json(catalog: &Catalog) -> Result<()> {
    let runs = catalog.runs();
    let mut timelines: Vec<u32> = runs.iter().map(|run| run.first.timeline.get()).collect();
    timelines.dedup();
    let timelines: Vec<_> = timelines
        .into_iter()
        .map(|timeline| {
            let runs = runs.iter().filter(|run| run.first.timeline.get() == timeline);
            let runs: Vec<_> = runs
                .map(|run| json!({"first": run.first.to_string(), "last": run.last.to_string(), "segments": run.segments}))
                .collect();
            json!({"timeline": timeline, "runs": runs})
        })
        .collect();
    let gaps: Vec<_> = catalog
        .gaps()
        .iter()
        .map(|gap| json!({"timeline": gap.first.timeline.get(), "first": gap.first.to_string(), "last": gap.last.to_string()}))
        .collect();
    let conflicts: Vec<String> = catalog.conflicts().iter().map(ToString::to_string).collect();
    let tail_lsn = catalog.newest_tail().map(|(_, end)| end);
    output::json(&json!({"timelines": timelines, "gaps": gaps, "tail_lsn": tail_lsn, "conflicts": conflicts}))
}

fn list_text(catalog: &Catalog) -> Result<()> {
    let rows: Vec<Vec<String>> = catalog
        .runs()
        .iter()
        .map(|run| {
            vec![
                run.first.timeline.to_string(),
                run.first.to_string(),
                run.last.to_string(),
                run.segments.to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return output::line("no WAL is archived yet");
    }
    output::table(&["TIMELINE", "FIRST", "LAST", "SEGMENTS"], &rows)?;
    if let Some((tail, end)) = catalog.newest_tail() {
        let segment = tail.segment;
        output::line(format!("TAIL on timeline {}: {segment} up to {end}", segment.timeline))?;
    }
    for gap in catalog.gaps() {
        output::line(format!(
            "GAP on timeline {}: {} to {} are missing",
            gap.first.timeline, gap.first, gap.last
        ))?;
    }
    for name in catalog.conflicts() {
        output::line(format!("CONFLICT: different contents are stored under the name {name}"))?;
    }
    Ok(())
}
