//! `wal-push`, `wal-fetch`, `wal-list`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::archive::{self, Ask, Asked, FetchRequest, Fetched, Pins, Pushed, Redirect, Spool};
use crate::cli::{args::Global, args::WalFetch, args::Which, context::Context, output, start};
use crate::cluster::DataDir;
use crate::config::Config;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::{ControlFile, WalName};
use crate::repository::Namespace;
use crate::store::Policy;
use crate::window::{Catalog, Records};

/// R5: whatever happens, the answer comes within `archive.timeout`. The daemon, if there is one, is asked first: mostly
/// it has shipped the file already. What it cannot do within half of the time is done here.
pub(super) fn push(global: &Global, path: &Path) -> Result<u8> {
    let begin = Instant::now();
    let config = Config::load(&global.config)?;
    let context = || format!("archive {}", path.display());
    let control = live_control(&config).with_context(context)?;
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

/// The control file of the cluster that archives: the configured one, else the working directory, in which
/// PostgreSQL runs its commands.
fn live_control(config: &Config) -> Result<ControlFile> {
    let data_dir = config.data_dir_if_set().unwrap_or(Path::new("."));
    DataDir::open(data_dir)?.control()
}

pub(super) fn fetch(global: &Global, arguments: &WalFetch) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    // PostgreSQL asks for nothing else, and what has no name cannot be in the archive; still no proof of absence.
    let name: WalName = arguments.name.parse()?;
    let data_dir = Path::new(".");
    let system_identifier = match arguments.system_identifier {
        Some(given) => given,
        None => control_for_fetching(&config, data_dir)?.system_identifier,
    };
    // R6: nothing asks again during recovery; a standby asks again, and a promotion waits for this call.
    let timeout = config.archive.timeout;
    let policy = if arguments.standby { Policy::brief(timeout) } else { Policy::within(timeout * 3) };
    let namespace = config.namespace(policy)?;
    // R16: `restore` leaves its restore_command behind. Should the cluster become a standby one day, a tail would take
    // the place of a longer segment that the standby has already.
    let tail = arguments.tail && !data_dir.join("standby.signal").exists();
    // Fetching ahead pays where a request crosses a network.
    let ahead = namespace.store().is_remote();
    let spool = if ahead || tail { spool(&namespace, system_identifier) } else { None };
    let pins = spool.as_ref().filter(|_| tail).and_then(|spool| Pins::open(spool, data_dir));
    let spool = spool.filter(|_| ahead);
    let redirect = arguments.redirect_tablespaces.clone().map(Redirect::below);
    let request = FetchRequest {
        system_identifier,
        name,
        to: &arguments.path,
        spool: spool.as_ref(),
        tail,
        follows: arguments.timeline,
        pins: pins.as_ref(),
        redirect: redirect.as_ref(),
    };
    let fetch = archive::fetch(&namespace, &request);
    let fetched = start::run_small(fetch).with_context(|| format!("fetch {name}"))?;
    let tail_lsn = match fetched {
        Fetched::Tail { end } => Some(end),
        Fetched::Archived => None,
    };
    if let Some(end) = tail_lsn {
        tracing::info!(%name, %end, "served the tail");
    } else if let (Some(spool), WalName::Segment(_)) = (&spool, name) {
        prefetch_in_background(global, &config, name, system_identifier, spool);
    }
    if global.json {
        output::json(
            &json!({ "name": name.to_string(), "path": arguments.path.to_string_lossy(), "tail_lsn": tail_lsn }),
        )?;
    }
    Ok(0)
}

/// The control file of the cluster that PostgreSQL fetches for, in its working directory; an operator may be anywhere,
/// and means the configured one.
fn control_for_fetching(config: &Config, here: &Path) -> Result<ControlFile> {
    let is_data_dir = here.join("global/pg_control").exists();
    let data_dir = config.data_dir_if_set().filter(|_| !is_data_dir).unwrap_or(here);
    DataDir::open(data_dir)
        .and_then(|data_dir| data_dir.control())
        .hint("run this in the data directory, as PostgreSQL does, or say --system-identifier")
}

fn spool(namespace: &Namespace, system_identifier: u64) -> Option<Spool> {
    let base = std::env::var_os("CACHE_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
    let here = std::env::current_dir().ok()?;
    Spool::open(&base, &here, &namespace.identity_name(system_identifier))
}

/// Start a process that outlives this one; recovery does not wait for it. If it cannot start, the next segment is
/// simply fetched when it is asked for.
fn prefetch_in_background(
    global: &Global,
    config: &Config,
    name: WalName,
    system_identifier: u64,
    spool: &Spool,
) {
    let Ok(program) = std::env::current_exe() else { return };
    let child = Command::new(program)
        .args(["wal-prefetch", &name.to_string()])
        .args(["--system-identifier", &system_identifier.to_string()])
        .arg("--spool")
        .arg(spool.path())
        .arg("--config")
        .arg(&config.path)
        .args(global.quiet.then_some("--quiet"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Err(error) = child {
        tracing::debug!(%error, "cannot fetch ahead");
    }
}

pub(super) fn prefetch(global: &Global, name: &str, system_identifier: u64, spool: PathBuf) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let name = name.parse()?;
    // Its own session: a signal to the server's process group is none of its business, and it ends soon.
    let _ = rustix::process::setsid();
    let namespace = config.namespace(Policy::within(config.archive.timeout))?;
    start::run_small(archive::prefetch(&namespace, system_identifier, name, &Spool::at(spool)))?;
    Ok(0)
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
