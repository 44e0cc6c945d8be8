//! A file system that is soon full.

use super::Scratch;
use super::account::Account;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs of a few megabytes, owned by the account; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    _scratch: Scratch,
}

impl SmallDisk {
    /// `None` where this process may not mount, and a word about it: what else the test shows still holds.
    pub fn mount(megabytes: u32) -> Option<Self> {
        let scratch = Scratch::new();
        let path = scratch.dir("disk");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0755")], &path);
        if !mounted {
            eprintln!("no small disk: mount is for root (CAP_SYS_ADMIN); that part of the test was left out");
        }
        mounted.then(|| {
            Account::get().own(&path);
            Self { path, _scratch: scratch }
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Somebody freed space.
    #[track_caller]
    pub fn grow(&self, megabytes: u32) {
        let options = format!("remount,size={megabytes}m");
        assert!(run("mount", &["-o", &options], &self.path), "remount {}", self.path.display());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["--lazy"], &self.path);
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(args);
    if program == "mount" && args[0] == "-t" {
        command.arg("walproof-test");
    }
    command.arg(path).output().is_ok_and(|output| output.status.success())
}
