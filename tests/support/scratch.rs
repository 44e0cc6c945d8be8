//! Temporary directories that the programs under test may use.

use super::account::Account;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A temporary directory owned by the [`Account`], which every user may enter; gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// A new, empty one. The name is short because Unix socket paths must stay under 107 bytes.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("wp").tempdir_in(root());
        let dir = dir.expect("make a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod scratch");
        Account::get().own(dir.path());
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path `name` in it; nothing is created.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new directory `name` in it, mode 0700 as PostgreSQL wants its own, owned by the account.
    #[track_caller]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod directory");
        Account::get().own(&path);
        path
    }

    /// A file `name` in it with mode 0600, owned by the account.
    #[track_caller]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        write_owned(&path, content.as_ref(), 0o600);
        path
    }
}

/// `TMPDIR` if it is set; else memory where there is plenty, because a restore ends with syncfs, and that waits for
/// whatever else the machine is writing to the disk (a build: seconds); else the usual temporary directory.
fn root() -> PathBuf {
    const PLENTY: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let in_memory = std::env::var_os("TMPDIR").is_none() && free >= PLENTY;
    if in_memory { memory.to_owned() } else { std::env::temp_dir() }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Write a file that belongs to the account.
#[track_caller]
pub fn write_owned(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod file");
    Account::get().own(path);
}

/// Create `path` and its missing parents, each new one owned by the account, mode 0700.
#[track_caller]
pub fn create_dirs_owned(path: &Path) {
    if path.is_dir() {
        return;
    }
    if let Some(parent) = path.parent() {
        create_dirs_owned(parent);
    }
    fs::create_dir(path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("chmod directory");
    Account::get().own(path);
}
