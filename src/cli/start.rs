//! What happens before a command: no core dumps, logs, the configuration.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::Global;
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// Keys are in memory: no core dump may hold them, no process of the same user may read them (R24).
pub(crate) fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // Neither can fail for a reason that the operator could act on.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Whether what is logged are objects of JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Whether every line on stderr has to be an object of JSON.
pub(crate) fn logs_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// This program's own path, also after an upgrade has put another file there: Linux then appends " (deleted)" to it.
pub(crate) fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe().map(|path| as_installed(&path))
}

fn as_installed(path: &Path) -> PathBuf {
    let replaced = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    match replaced {
        Some(before) if !path.exists() => PathBuf::from(OsStr::from_bytes(before)),
        _ => path.to_owned(),
    }
}

/// Log to stderr.
pub(crate) fn log(global: &Global, json: bool, usual: LevelFilter) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => usual,
        (false, 1) => usual.max(LevelFilter::DEBUG),
        (false, _) => LevelFilter::TRACE,
    };
    // Dependencies speak up only when asked twice.
    let others = if global.verbose > 1 { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let filter = EnvFilter::default()
        .add_directive(others.into())
        .add_directive(format!("walproof={level}").parse().unwrap_or_else(|_| level.into()));
    let stderr = Stderr {
        colours: std::io::IsTerminal::is_terminal(&std::io::stderr()),
        journal: std::env::var("JOURNAL_STREAM").is_ok_and(|stream| leads_to_journal(&stream)),
    };
    JSON.store(json, Ordering::Relaxed);
    // A second initialisation happens in tests only.
    let _ = subscriber(json, filter, stderr, std::io::stderr).try_init();
}

/// What reads what is logged.
#[derive(Debug, Clone, Copy)]
struct Stderr {
    colours: bool,
    journal: bool,
}

/// Lines of text, or with `json` one object a line.
fn subscriber<W>(json: bool, filter: EnvFilter, to: Stderr, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false)
        // Where the log cannot be written, saying so there would panic.
        .log_internal_errors(false);
    match (json, to.journal) {
        (true, _) => Box::new(builder.json().flatten_event(true).with_ansi(false).finish()),
        // The journal has times of its own.
        (false, true) => Box::new(builder.with_ansi(to.colours).without_time().finish()),
        (false, false) => Box::new(builder.with_ansi(to.colours).finish()),
    }
}

/// Whether stderr is what systemd says in `JOURNAL_STREAM`, "device:inode": children inherit the variable, and may
/// write elsewhere.
fn leads_to_journal(stream: &str) -> bool {
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Read the configuration, then log as it says.
pub(crate) fn configure(global: &Global, usual: LevelFilter) -> Result<Config> {
    let config = Config::load(&global.config)?;
    log(global, config.log_json, usual);
    Ok(config)
}

/// Run a command that does one thing: one thread for the network, further ones where a room asks for them.
pub(crate) fn run_small<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let result = runtime.block_on(work);
    // A request that hangs in a thread of its own must not keep the process.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

/// Run a command that moves much.
pub(crate) fn run_large<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(cause: std::io::Error) -> Error {
    Error::new(Kind::Other, format!("start: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, to: Stderr) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let filter = EnvFilter::default().add_directive(LevelFilter::INFO.into());
        let subscriber = subscriber(json, filter, to, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            let error = Error::new(Kind::Other, "open \"a\"\n\u{1b}[31mred");
            tracing::warn!(%error, seconds = 3, "cannot go on");
            tracing::info!("archived");
            tracing::debug!("unheard");
        });
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_program_that_was_replaced_is_found_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("walproof");
        std::fs::write(&program, "").unwrap();
        let deleted = directory.path().join("walproof (deleted)");
        assert_eq!(as_installed(&program), program);
        assert_eq!(as_installed(&deleted), program);
        // A file may really be called that.
        std::fs::write(&deleted, "").unwrap();
        assert_eq!(as_installed(&deleted), deleted);
    }

    #[test]
    fn json_lines_are_objects() {
        for colours in [false, true] {
            let text = logged(true, Stderr { colours, journal: true });
            assert!(!text.contains('\u{1b}'), "{text}");
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.len(), 2);
            assert_eq!(lines[0]["level"], "WARN");
            assert_eq!(lines[0]["message"], "cannot go on");
            assert_eq!(lines[0]["seconds"], 3);
            assert_eq!(lines[0]["error"], "open \"a\"; \u{1b}[31mred");
            for line in lines {
                line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            }
        }
    }

    #[test]
    fn text_has_a_time_unless_the_journal_has_one() {
        let text = logged(false, Stderr { colours: false, journal: false });
        let (time, rest) = text.split_once(' ').unwrap();
        time.parse::<jiff::Timestamp>().unwrap();
        assert!(rest.trim_start().starts_with("WARN cannot go on "), "{text}");
        let text = logged(false, Stderr { colours: false, journal: true });
        assert!(text.trim_start().starts_with("WARN cannot go on "), "{text}");
    }

    #[test]
    fn only_the_journal_that_stderr_leads_to_counts() {
        let stat = rustix::fs::fstat(std::io::stderr()).unwrap();
        assert!(leads_to_journal(&format!("{}:{}", stat.st_dev, stat.st_ino)));
        for other in ["", "1", "0:0", "a:b"] {
            assert!(!leads_to_journal(other), "{other}");
        }
    }
}
