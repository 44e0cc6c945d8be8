//! One cluster's data directory: that it is one, what its `pg_control` says, and whether a server runs in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, geteuid, test_kill_process};

use super::exclude::FOLLOWED;
use super::version::major_of;
use crate::disk::FileId;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::{ControlFile, History, Major, TimelineId, WalName};

/// PostgreSQL writes `pg_control` in one call, but nothing makes that atomic for a reader.
const CONTROL_READS: u32 = 10;
const CONTROL_PAUSE: Duration = Duration::from_millis(20);

/// An existing data directory. It says nothing about whether a server runs in it.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    major: Major,
}

impl DataDir {
    /// Resolves symbolic links in `path` and checks for `PG_VERSION` and `global/pg_control`. What
    /// is not a data directory, or is one that this user may not read, is [`Kind::Server`].
    pub fn open(path: &Path) -> Result<Self> {
        let path = fs::canonicalize(path).map_err(|cause| unreadable("find", path, path, &cause))?;
        let version_file = path.join("PG_VERSION");
        let version = fs::read_to_string(&version_file)
            .map_err(|cause| unreadable("read", &version_file, &path, &cause))?;
        let major = major_of(&version).with_context(|| format!("read {}", version_file.display()))?;
        let control = path.join("global/pg_control");
        fs::metadata(&control).map_err(|cause| unreadable("look at", &control, &path, &cause))?;
        Ok(Self { path, major })
    }

    /// Absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From `PG_VERSION`.
    pub fn version_major(&self) -> Major {
        self.major
    }

    /// What `global/pg_control` says now; see [`DataDir::control_bytes`].
    pub fn control(&self) -> Result<ControlFile> {
        self.read_control().map(|(control, _)| control)
    }

    /// The history of `timeline` as far as this host knows it.
    pub fn history(&self, timeline: TimelineId) -> History {
        let path = self.path.join("pg_wal").join(WalName::History(timeline).to_string());
        let text = fs::read(path).ok();
        let history = text.and_then(|text| History::parse(timeline, &text).ok());
        history.unwrap_or_else(|| History::root(timeline))
    }

    /// The bytes of `global/pg_control` as a running server keeps them: read again until the checksum
    /// holds, because a read may meet a write in the middle. Blocks for up to 200 ms.
    pub fn control_bytes(&self) -> Result<Vec<u8>> {
        self.read_control().map(|(_, bytes)| bytes)
    }

    fn read_control(&self) -> Result<(ControlFile, Vec<u8>)> {
        let path = self.path.join("global/pg_control");
        let mut reads = 0;
        loop {
            let bytes = fs::read(&path).map_err(|cause| unreadable("read", &path, &self.path, &cause))?;
            reads += 1;
            match ControlFile::parse(&bytes) {
                Ok(control) => return Ok((control, bytes)),
                Err(error) if reads == CONTROL_READS || error.kind() != Kind::Corrupt => {
                    return Err(error.context(format!("read {}", path.display())));
                }
                Err(_) => sleep(CONTROL_PAUSE),
            }
        }
    }

    /// Links in the place of directories that a cluster cannot be without: an operator put these on another disk.
    pub fn linked_directories(&self) -> Vec<PathBuf> {
        FOLLOWED.iter().map(|name| self.path.join(name)).filter(|path| path.is_symlink()).collect()
    }

    /// Whether the process that `postmaster.pid` names is alive and works in this directory. A server in
    /// another container is not seen. When in doubt the answer is yes: it keeps a restore from writing
    /// under a running server.
    pub fn server_is_running(&self) -> Result<bool> {
        let path = self.path.join("postmaster.pid");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => return Err(unreadable("read", &path, &self.path, &cause)),
        };
        // A single-user server writes its process id negated. An empty file is one being written.
        let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
        let Some(pid) = pid.and_then(i32::checked_abs).and_then(Pid::from_raw) else { return Ok(true) };
        Ok(self.is_worked_in_by(pid))
    }

    /// After a crash the number may have gone to another process, in a container often the first one.
    /// A server never leaves its data directory, so the working directory tells them apart where it may be
    /// read.
    fn is_worked_in_by(&self, pid: Pid) -> bool {
        if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return false;
        }
        let cwd = FileId::at(Path::new(&format!("/proc/{}/cwd", pid.as_raw_nonzero())));
        match (cwd, FileId::at(&self.path)) {
            (Ok(cwd), Ok(here)) => cwd == here,
            _ => true,
        }
    }
}

/// A data directory that cannot be looked into is a server that is not the configured one, or a command that
/// runs as the wrong user.
fn unreadable(verb: &str, path: &Path, data_dir: &Path, cause: &io::Error) -> Error {
    let message = format!("{verb} {}: {cause}", path.display());
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::server(message).context("not a PostgreSQL data directory").hint("is data_dir right?")
        }
        io::ErrorKind::PermissionDenied => {
            let owner = match fs::metadata(data_dir) {
                Ok(found) => format!("the user that owns it, {}", user_name(found.uid())),
                Err(_) => "the user that owns it, usually postgres".to_owned(),
            };
            Error::server(format!("{message}, as user {}", user_name(geteuid().as_raw())))
                .hint(format!("does this command run as {owner}?"))
        }
        _ => Error::io(verb, path, cause),
    }
}

/// The name in `/etc/passwd`, or "with id 1000" where there is none: to be read after "user".
pub fn user_name(id: u32) -> String {
    let names = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in_passwd(&names, id).map_or_else(|| format!("with id {id}"), str::to_owned)
}

fn name_in_passwd(passwd: &str, id: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cluster::fixture;

    #[test]
    fn it_is_found_through_links_and_says_what_it_is() {
        let dir = fixture::data_dir();
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        let found = DataDir::open(&link).unwrap();
        assert_eq!(found.path(), fs::canonicalize(dir.path()).unwrap());
        assert_eq!(found.version_major().get(), 15);
        assert_eq!(found.control().unwrap().system_identifier, fixture::SYSTEM_IDENTIFIER);
        assert_eq!(found.control_bytes().unwrap(), fixture::control_bytes());
    }

    #[test]
    fn what_is_no_data_directory_is_refused_with_a_question() {
        for removed in ["PG_VERSION", "global/pg_control"] {
            let dir = fixture::data_dir();
            fs::remove_file(dir.path().join(removed)).unwrap();
            let error = DataDir::open(dir.path()).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with("not a PostgreSQL data directory: "), "{message}");
            assert!(message.contains(removed), "{message}");
            assert_eq!((error.kind(), error.hint_text()), (Kind::Server, Some("is data_dir right?")));
        }
        assert_eq!(
            DataDir::open(Path::new("/nonexistent")).unwrap_err().to_string(),
            "not a PostgreSQL data directory: find /nonexistent: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_version_that_is_not_known_is_named_with_its_file() {
        let dir = fixture::data_dir();
        fs::write(dir.path().join("PG_VERSION"), "9.6\n").unwrap();
        let message = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("PG_VERSION: PostgreSQL \"9.6\" is not a version"), "{message}");
    }

    #[test]
    fn pg_control_is_read_again_until_its_checksum_holds() {
        let dir = fixture::data_dir();
        let found = DataDir::open(dir.path()).unwrap();
        let path = dir.path().join("global/pg_control");
        let mut torn = fixture::control_bytes();
        torn[40] ^= 1;
        fs::write(&path, &torn).unwrap();
        let message = found.control().unwrap_err().to_string();
        assert!(message.starts_with("read ") && message.contains("pg_control: "), "{message}");
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| found.control_bytes());
            sleep(CONTROL_PAUSE * 2);
            fs::write(&path, fixture::control_bytes()).unwrap();
            assert_eq!(reader.join().unwrap().unwrap(), fixture::control_bytes());
        });
    }

    #[test]
    fn a_server_runs_if_its_process_lives_and_works_here() {
        let dir = fixture::data_dir();
        let found = DataDir::open(dir.path()).unwrap();
        let running = |text: String| {
            fs::write(dir.path().join("postmaster.pid"), text).unwrap();
            found.server_is_running().unwrap()
        };
        assert!(!found.server_is_running().unwrap(), "no postmaster.pid");
        assert!(running(String::new()), "being written");
        assert!(!running(format!("{}\n", std::process::id())), "this test works elsewhere");
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let pid = child.id();
        assert!(running(format!("{pid}\n{}\n", dir.path().display())));
        assert!(running(format!("-{pid}\n")), "single-user mode");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!running(format!("{pid}\n")));
    }

    #[test]
    fn users_are_named_as_in_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104::/var/lib/postgresql:/bin/sh\n";
        assert_eq!(name_in_passwd(passwd, 101), Some("postgres"));
        assert_eq!(name_in_passwd(passwd, 104), None);
        assert_eq!(name_in_passwd("broken", 0), None);
    }
}
