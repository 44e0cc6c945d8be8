//! As whom the programs under test run.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The user for PostgreSQL and walproof: an unprivileged one when the test runs as root, else ourselves.
#[derive(Debug, Clone)]
pub struct Account {
    /// `None`: already unprivileged, nothing to change.
    switch_to: Option<(u32, u32)>,
    name: String,
}

impl Account {
    /// The account of this test process's children.
    pub fn get() -> &'static Self {
        static ACCOUNT: OnceLock<Account> = OnceLock::new();
        ACCOUNT.get_or_init(Self::find)
    }

    fn find() -> Self {
        if !rustix::process::geteuid().is_root() {
            let name = std::env::var("USER").unwrap_or_else(|_| "postgres".into());
            return Self { switch_to: None, name };
        }
        let passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|user| Self::parse(&passwd, user))
            .expect("PostgreSQL refuses root, and neither user postgres nor nobody is there: apt-get install postgresql")
    }

    fn parse(passwd: &str, user: &str) -> Option<Self> {
        let mut fields = passwd
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| (fields.next() == Some(user)).then(|| fields.skip(1)))?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { switch_to: Some((uid, gid)), name: user.into() })
    }

    /// Let `command` run as this account. std drops root's supplementary groups with the uid.
    pub fn apply(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.switch_to {
            command.uid(uid).gid(gid);
        }
    }

    /// Give `path` itself to this account.
    #[track_caller]
    pub fn own(&self, path: &Path) {
        if let Some((uid, gid)) = self.switch_to {
            chown(path, Some(uid), Some(gid))
                .unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
        }
    }

    /// Give `path` and all below it to this account, symbolic links not followed.
    #[track_caller]
    pub fn own_all(&self, path: &Path) {
        let meta =
            fs::symlink_metadata(path).unwrap_or_else(|error| panic!("stat {}: {error}", path.display()));
        if !meta.is_symlink() {
            self.own(path);
        }
        if meta.is_dir() {
            for entry in fs::read_dir(path).expect("list directory") {
                self.own_all(&entry.expect("directory entry").path());
            }
        }
    }

    /// The database superuser that initdb makes, the same name on every machine.
    pub const SUPERUSER: &'static str = "postgres";
}
