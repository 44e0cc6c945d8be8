//! A host that archives, without a server: a fabricated data directory, an initialised repository, and the
//! program configured for both. Segments are small, so that a test can afford many.

use super::fabricate::{ControlFile, FakeDataDir, MIB, WalFile};
use super::process::{self, Output};
use super::walproof_builder::WalproofBuilder;
use super::{Repo, Scratch, Walproof};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The major that sites pretend to run; none is needed on the machine.
pub const MAJOR: u32 = 15;

/// `Site::new(Repo::local())`, then push and fetch.
#[derive(Debug)]
pub struct Site {
    pub data: FakeDataDir,
    pub walproof: Walproof,
    /// Where fetched files go.
    pub out: Scratch,
}

impl Site {
    /// With a repository that `init` has made.
    #[track_caller]
    pub fn new(repo: Repo) -> Self {
        Self::with(repo, |builder| builder)
    }

    /// The same, configured by `configure`.
    #[track_caller]
    pub fn with(repo: Repo, configure: impl FnOnce(WalproofBuilder) -> WalproofBuilder) -> Self {
        let site = Self::uninitialised(repo, configure);
        site.walproof.run(["init"]).success();
        site
    }

    /// Before `init`.
    #[track_caller]
    pub fn uninitialised(repo: Repo, configure: impl FnOnce(WalproofBuilder) -> WalproofBuilder) -> Self {
        let data = FakeDataDir::with(ControlFile::new(MAJOR).segment_size(MIB));
        let walproof = configure(Walproof::builder(repo).data_dir(data.path())).build();
        Self { data, walproof, out: Scratch::new() }
    }

    pub fn repo(&self) -> &Repo {
        self.walproof.repo()
    }

    /// Put `file` into pg_wal and archive it; gives its name.
    #[track_caller]
    pub fn archive(&self, file: &WalFile) -> String {
        let name = self.data.add_wal(file);
        self.walproof.push(&name).success();
        name
    }

    /// Archive segments `numbers` of timeline 1; gives their names.
    #[track_caller]
    pub fn archive_all(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
        numbers.into_iter().map(|number| self.archive(&self.data.wal(number).random(number))).collect()
    }

    /// Put a file that is no segment into pg_wal and archive it.
    #[track_caller]
    pub fn archive_text(&self, name: &str, content: impl AsRef<[u8]>) {
        self.data.add_to_pg_wal(name, content);
        self.walproof.push(name).success();
    }

    /// What pg_wal holds under `name`.
    #[track_caller]
    pub fn original(&self, name: &str) -> Vec<u8> {
        fs::read(self.data.pg_wal().join(name)).expect("read a file of pg_wal")
    }

    /// Where [`Site::fetch`] puts `name`.
    pub fn fetched(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// `wal-fetch` of `name` to a place where nothing is yet.
    #[track_caller]
    pub fn fetch(&self, name: &str) -> Output {
        self.fetch_with(&self.walproof, name)
    }

    /// The same by another program, such as one with another key.
    #[track_caller]
    pub fn fetch_with(&self, walproof: &Walproof, name: &str) -> Output {
        let target = self.fetched(name);
        let _ = fs::remove_file(&target);
        walproof.fetch(name, &target)
    }

    /// Fetching `name` gives the bytes that pg_wal holds.
    #[track_caller]
    pub fn comes_back(&self, name: &str) {
        self.fetch(name).success();
        assert!(fs::read(self.fetched(name)).expect("fetched") == self.original(name), "{name} differs");
    }

    /// Fetching `name` ends with `code`, one error, and no file: not under its name, nor any other.
    #[track_caller]
    pub fn fetch_fails(&self, name: &str, code: i32) -> Output {
        let output = self.fetch(name);
        output.complains_with(code);
        self.nothing_fetched();
        output
    }

    #[track_caller]
    pub fn nothing_fetched(&self) {
        let left = file_names(self.out.path());
        assert!(left.is_empty(), "fetching left {left:?}");
    }

    /// The archived objects of WAL file `name`, by key.
    pub fn stored(&self, name: &str) -> Vec<String> {
        self.repo().keys(&format!("/{name}-"))
    }

    /// Replace text in the configuration file.
    #[track_caller]
    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.walproof.config()).expect("read the configuration");
        self.walproof.scratch().file("walproof.toml", edit(text));
    }

    /// Remove the line that sets `key`.
    #[track_caller]
    pub fn unset(&self, key: &str) {
        let other = |line: &&str| !line.starts_with(key);
        self.edit_config(|text| text.lines().filter(other).collect::<Vec<_>>().join("\n"));
    }

    /// The secret part of the key, which nothing may ever print.
    #[track_caller]
    pub fn key(&self) -> String {
        let text = fs::read_to_string(self.walproof.scratch().join("key")).expect("read the key");
        text.split_whitespace().last().expect("a key").to_owned()
    }

    /// Run a command with changes: a working directory, an environment variable, a closed stream.
    #[track_caller]
    pub fn run_altered<const N: usize>(
        &self,
        args: [&str; N],
        alter: impl FnOnce(&mut std::process::Command),
    ) -> Output {
        let mut command = self.walproof.command(args);
        alter(&mut command);
        process::run(command, b"", Duration::from_mins(1))
    }
}

/// The names in a directory, sorted.
pub fn file_names(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).expect("list a directory");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("directory entry").file_name()).collect();
    names.sort();
    names
}

/// Every file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

impl Output {
    /// Expect one clear error: this code, one line that says what is wrong, at most one hint, no panic (R27).
    #[track_caller]
    pub fn complains_with(&self, code: i32) -> &Self {
        self.fails_with(code).says_nowhere("panicked").says_nowhere("RUST_BACKTRACE");
        let stderr = self.stderr();
        let mut lines = stderr.lines();
        let error = lines.next().is_some_and(|line| line.starts_with("walproof: error: "));
        let hint = lines.next().is_none_or(|line| line.starts_with("walproof: hint: "));
        assert!(error && hint && lines.next().is_none(), "want one error line and perhaps a hint: {self}");
        assert!(self.stdout().is_empty(), "an error, and results: {self}");
        self
    }

    /// Expect the one error with a hint.
    #[track_caller]
    pub fn hints(&self, text: &str) -> &Self {
        let hint = self.stderr().lines().nth(1).map(str::to_owned).unwrap_or_default();
        assert!(hint.starts_with("walproof: hint: ") && hint.contains(text), "hint {text:?}? {self}");
        self
    }
}
