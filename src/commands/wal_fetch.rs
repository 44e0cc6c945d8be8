//! `wal-fetch`, and the prefetcher that it starts beside itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::archive::{self, Ahead, FetchRequest, Fetched, Pins, Prefetch, Redirect, Spool};
use crate::cli::{args::Global, args::WalFetch, output, start};
use crate::cluster::DataDir;
use crate::config::Config;
use crate::error::{Result, ResultExt};
use crate::postgres::{ControlFile, Lsn, SegmentName, TimelineId, WalName};
use crate::repository::identity_name;
use crate::seal::KeyRing;
use crate::store::Policy;

/// A segment that is on its way is waited for; a standby that is being promoted does not wait.
const STANDBY_PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn fetch(global: &Global, arguments: &WalFetch) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    // PostgreSQL asks for nothing else, and what has no name cannot be in the archive; still no proof of absence.
    let name: WalName = arguments.name.parse()?;
    let tail_lsn =
        Fetch::new(&config, arguments, name)?.run(global).with_context(|| format!("fetch {name}"))?;
    if let Some(end) = tail_lsn {
        tracing::info!(%name, %end, "served the tail");
    }
    if global.json {
        output::json(
            &json!({ "name": name.to_string(), "path": arguments.path.to_string_lossy(), "tail_lsn": tail_lsn }),
        )?;
    }
    Ok(0)
}

/// One call of a `restore_command`.
struct Fetch<'a> {
    config: &'a Config,
    arguments: &'a WalFetch,
    name: WalName,
    system_identifier: u64,
    /// Whether the tail may be served.
    tail: bool,
    spool: Option<Spool>,
    pins: Option<Pins>,
}

impl<'a> Fetch<'a> {
    fn new(config: &'a Config, arguments: &'a WalFetch, name: WalName) -> Result<Self> {
        let data_dir = Path::new(".");
        let system_identifier = match arguments.system_identifier {
            Some(given) => given,
            None => control_for_fetching(config, data_dir)?.system_identifier,
        };
        // R16: `restore` leaves its restore_command behind. Should the cluster become a standby one day, a tail would take
        // the place of a longer segment that the standby has already.
        let tail = arguments.tail && !data_dir.join("standby.signal").exists();
        let spool = spool(config, system_identifier);
        let pins = spool.as_ref().filter(|_| tail).and_then(|spool| Pins::open(spool, data_dir));
        Ok(Self { config, arguments, name, system_identifier, tail, spool, pins })
    }

    /// Where the tail ends, if it was served.
    fn run(&self, global: &Global) -> Result<Option<Lsn>> {
        let policy = self.policy();
        let keys = self.config.keys_within(policy.patience)?;
        let ahead = self.spool.as_ref().map(|spool| Ahead {
            spool,
            keys: &keys,
            cluster: &self.config.cluster,
            system_identifier: self.system_identifier,
            follows: self.arguments.timeline,
        });
        // What recovery was told of a tail, it is told again, whatever is archived by now.
        let pinned = |segment| self.pins.as_ref().is_some_and(|pins| pins.has(segment));
        let segment = self.name.segment().filter(|_| matches!(self.name, WalName::Segment(_)));
        let free = segment.as_ref().filter(|segment| !pinned(segment));
        let taken =
            ahead.as_ref().zip(free).and_then(|(ahead, segment)| ahead.take(*segment, self.patience()));
        let mut opened = None;
        if let Some(taken) = taken {
            let done = if self.arguments.redirect_tablespaces.is_none() {
                taken.deliver(&self.arguments.path)
            } else {
                taken.into_bytes().map(|bytes| opened = Some(bytes))
            };
            match done {
                Ok(()) if opened.is_none() => return Ok(None),
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "fetching it from the repository instead"),
            }
        }
        let fetched = self.ask_repository(keys.clone(), policy, opened.as_deref())?;
        match fetched {
            Fetched::Tail { end } => Ok(Some(end)),
            Fetched::Archived => {
                if let Some((ahead, segment)) = ahead.as_ref().zip(segment)
                    && !ahead.tell(segment)
                {
                    self.start_prefetcher(global, segment, ahead.spool);
                }
                Ok(None)
            }
        }
    }

    fn policy(&self) -> Policy {
        // R6: nothing asks again during recovery; a standby asks again, and a promotion waits for this call.
        let timeout = self.config.archive.timeout;
        if self.arguments.standby { Policy::brief(timeout) } else { Policy::within(timeout * 3) }
    }

    fn ask_repository(&self, keys: KeyRing, policy: Policy, opened: Option<&[u8]>) -> Result<Fetched> {
        let namespace = self.config.namespace_with(keys, policy)?;
        let redirect = self.arguments.redirect_tablespaces.clone().map(Redirect::below);
        let request = FetchRequest {
            system_identifier: self.system_identifier,
            name: self.name,
            to: &self.arguments.path,
            opened,
            tail: self.tail,
            follows: self.arguments.timeline,
            pins: self.pins.as_ref(),
            redirect: redirect.as_ref(),
        };
        start::run_small(archive::fetch(&namespace, &request))
    }

    /// How long a segment is waited for that is on its way already.
    fn patience(&self) -> Duration {
        let half = self.config.archive.timeout / 2;
        if self.arguments.standby { STANDBY_PATIENCE.min(half) } else { half }
    }

    /// Start a process that outlives this one; recovery does not wait for it. If it cannot start, the next segment is
    /// simply fetched when it is asked for.
    fn start_prefetcher(&self, global: &Global, segment: SegmentName, spool: &Spool) {
        let Ok(program) = start::own_program() else { return };
        let mut command = Command::new(program);
        command.args(["wal-prefetch", &segment.to_string()]);
        command.args(["--system-identifier", &self.system_identifier.to_string()]);
        command.arg("--spool").arg(spool.path()).arg("--config").arg(&self.config.path);
        if let Some(timeline) = self.arguments.timeline {
            command.args(["--timeline", &timeline.to_string()]);
        }
        command.args(global.quiet.then_some("--quiet"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Err(error) = command.spawn() {
            tracing::debug!(%error, "cannot fetch ahead");
        }
    }
}

/// The control file of the cluster that PostgreSQL fetches for, in its working directory; an operator may be anywhere,
/// and means the configured one.
fn control_for_fetching(config: &Config, here: &Path) -> Result<ControlFile> {
    let is_data_dir = here.join("global/pg_control").exists();
    let data_dir = config.data_dir_if_set().filter(|_| !is_data_dir).unwrap_or(here);
    DataDir::open(data_dir)
        .and_then(|data_dir| data_dir.control())
        .hint("run this in the data directory, as PostgreSQL does, or give --system-identifier")
}

fn spool(config: &Config, system_identifier: u64) -> Option<Spool> {
    let base = std::env::var_os("CACHE_DIRECTORY").map_or_else(std::env::temp_dir, PathBuf::from);
    let here = std::env::current_dir().ok()?;
    let identity = identity_name(&config.cluster, system_identifier);
    Spool::open(&base, &here, &identity, &config.destination())
}

pub(super) fn prefetch(
    global: &Global,
    name: &str,
    system_identifier: u64,
    spool: PathBuf,
    follows: Option<TimelineId>,
) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let at = name.parse()?;
    // Its own session: a signal to the server's process group is none of its business, and it ends soon.
    let _ = rustix::process::setsid();
    let namespace = config.namespace(Policy::within(config.archive.timeout))?;
    // It keeps no data directory busy. What the configuration names from there was read above.
    let _ = std::env::set_current_dir("/");
    let concurrency = config.archive.concurrency;
    let spool = &Spool::at(spool);
    let namespace = &namespace;
    start::run_small(archive::prefetch(Prefetch {
        namespace,
        system_identifier,
        spool,
        at,
        follows,
        concurrency,
    }))?;
    Ok(0)
}
