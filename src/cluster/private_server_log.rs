//! What a private server wrote into its log: how recovery ended, and why a server stopped.

use std::path::{Path, PathBuf};

/// The log of a private server.
#[derive(Debug, Clone)]
pub struct ServerLog(PathBuf);

impl ServerLog {
    /// The log at `path`.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its text so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.0).unwrap_or_default()).into_owned()
    }

    /// Its length so far: as long as it grows, recovery goes on.
    pub fn len(&self) -> u64 {
        std::fs::metadata(&self.0).map_or(0, |metadata| metadata.len())
    }

    /// Whether nothing was logged yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why the server stopped: its first FATAL or PANIC with its detail, and what the restore command said last.
    pub fn failure(&self) -> Option<String> {
        failure(&self.text())
    }

    /// Where recovery stopped, in the server's words.
    pub fn stopping_point(&self) -> Option<String> {
        let text = self.text();
        let line =
            text.lines().rev().find_map(|line| message(line, "LOG")?.strip_prefix("recovery stopping "));
        line.map(str::to_owned)
    }

    /// Segments that were restored from the repository, those asked for twice counted once.
    pub fn restored_segments(&self) -> u64 {
        let text = self.text();
        let names =
            text.lines().filter_map(|line| message(line, "LOG")?.strip_prefix("restored log file \""));
        let mut names: Vec<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
        names.retain(|name| name.len() == 24);
        names.sort_unstable();
        names.dedup();
        names.len() as u64
    }

    /// The code with which the restore command failed for good, if it did.
    pub fn restore_command_failure(&self) -> Option<u8> {
        let text = self.text();
        let line = text.lines().find_map(|line| {
            let rest = message(line, "FATAL")?.strip_prefix("could not restore file ")?;
            rest.split_once("exit code ").map(|(_, code)| code.to_owned())
        })?;
        line.trim().parse().ok()
    }
}

/// What a line says at this level.
fn message<'a>(line: &'a str, level: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once("] ")?;
    rest.strip_prefix(level)?.strip_prefix(":").map(str::trim_start)
}

fn failure(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let fatal = |line: &str| message(line, "PANIC").or(message(line, "FATAL")).map(str::to_owned);
    let at = lines.iter().position(|line| fatal(line).is_some())?;
    let mut told = fatal(lines[at])?;
    for line in lines[at + 1..].iter().take(2) {
        if let Some(more) = message(line, "DETAIL").or(message(line, "HINT")) {
            told = format!("{told} ({more})");
        }
    }
    let ours = lines[..at].iter().rev().find_map(|line| line.strip_prefix("walproof: error: "));
    Some(ours.map_or_else(|| told.clone(), |ours| format!("{told}: {ours}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-24 17:00:00.000 UTC [7] LOG:  starting archive recovery\n\
        2026-11-24 17:00:00.100 UTC [7] LOG:  restored log file \"000000010000000000000002\" from archive\n\
        2026-11-24 17:00:00.100 UTC [7] LOG:  restored log file \"000000010000000000000002\" from archive\n\
        2026-11-24 17:00:00.100 UTC [7] LOG:  restored log file \"00000002.history\" from archive\n\
        walproof: error: fetch 000000010000000000000003: it is damaged\n\
        walproof: hint: x\n\
        2026-11-24 17:00:00.200 UTC [7] FATAL:  could not restore file \"000000010000000000000003\" from archive: child process exited with exit code 205\n\
        2026-11-24 17:00:00.200 UTC [6] LOG:  startup process (PID 7) exited with exit code 1\n";

    #[test]
    fn a_failure_is_told_with_what_caused_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), LOG).unwrap();
        let log = ServerLog::at(file.path());
        let told = log.failure().unwrap();
        assert!(told.starts_with("could not restore file") && told.ends_with("it is damaged"), "{told}");
        assert_eq!((log.restore_command_failure(), log.restored_segments()), (Some(205), 1));
        assert_eq!(log.stopping_point(), None);
        let detail = "2026 [1] FATAL:  recovery aborted\n2026 [1] DETAIL:  max_connections = 1 is lower\n";
        assert_eq!(failure(detail).unwrap(), "recovery aborted (max_connections = 1 is lower)");
        assert_eq!(failure("2026 [1] LOG:  FATAL: not one\n"), None);
    }

    #[test]
    fn the_stopping_point_is_the_servers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = "2026 UTC [7] LOG:  recovery stopping before commit of transaction 7, time 2026\n";
        std::fs::write(file.path(), line).unwrap();
        let log = ServerLog::at(file.path());
        assert_eq!(log.stopping_point().unwrap(), "before commit of transaction 7, time 2026");
    }
}
