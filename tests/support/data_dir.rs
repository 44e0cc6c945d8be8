//! A directory that looks like PGDATA to `init`, `wal-push` and `wal-fetch`; no server can start on it.

use super::Scratch;
use super::fabricate::{ControlFile, WalFile};
use super::scratch::write_owned;
use std::path::{Path, PathBuf};

/// PG_VERSION, global/pg_control and an empty pg_wal, owned by the account.
#[derive(Debug)]
pub struct FakeDataDir {
    dir: PathBuf,
    control: ControlFile,
    _scratch: Scratch,
}

impl FakeDataDir {
    /// Of this major; the control file as [`ControlFile::new`] makes it.
    #[track_caller]
    pub fn new(major: u32) -> Self {
        Self::with(ControlFile::new(major))
    }

    #[track_caller]
    pub fn with(control: ControlFile) -> Self {
        let scratch = Scratch::new();
        for name in [
            "data",
            "data/base",
            "data/global",
            "data/pg_tblspc",
            "data/pg_wal",
            "data/pg_wal/archive_status",
        ] {
            scratch.dir(name);
        }
        let data = Self { dir: scratch.join("data"), control, _scratch: scratch };
        data.file("PG_VERSION", format!("{}\n", data.control.version.major));
        data.file("postgresql.conf", "");
        data.file("global/pg_control", data.control.bytes());
        data
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    pub fn control(&self) -> &ControlFile {
        &self.control
    }

    pub fn pg_wal(&self) -> PathBuf {
        self.dir.join("pg_wal")
    }

    /// Segment number `segment` of this cluster on its timeline; alter it, then [`FakeDataDir::add_wal`] it.
    #[track_caller]
    pub fn wal(&self, segment: u64) -> WalFile {
        let ControlFile { version, system_identifier, timeline, segment_size, .. } = self.control;
        WalFile::new(version.major, system_identifier, timeline, segment, segment_size)
    }

    /// Put a finished segment into pg_wal and mark it ready, as the server does; gives its name.
    #[track_caller]
    pub fn add_wal(&self, file: &WalFile) -> String {
        file.write_to(&self.pg_wal());
        let name = file.name();
        self.mark_ready(&name);
        name
    }

    /// Segments `numbers` with little in them, as sparse files: thousands take hardly any space. Gives their names.
    #[track_caller]
    pub fn add_sparse_ready(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
        let add = |number| {
            let file = self.wal(number).pages(1);
            let (name, bytes) = (file.name(), file.bytes());
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let path = self.pg_wal().join(&name);
            super::scratch::write_owned(&path, &bytes[..used], 0o600);
            let sparse = std::fs::OpenOptions::new().write(true).open(&path).expect("open a segment");
            sparse.set_len(bytes.len() as u64).expect("lengthen a segment");
            self.mark_ready(&name);
            name
        };
        numbers.into_iter().map(add).collect()
    }

    /// Put any file into pg_wal and mark it ready: a history, a `.partial`, a `.backup`.
    #[track_caller]
    pub fn add_to_pg_wal(&self, name: &str, content: impl AsRef<[u8]>) {
        self.file(&format!("pg_wal/{name}"), content);
        self.mark_ready(name);
    }

    #[track_caller]
    pub fn mark_ready(&self, name: &str) {
        self.file(&format!("pg_wal/archive_status/{name}.ready"), "");
    }

    /// Write the file `name` below the directory.
    #[track_caller]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        write_owned(&path, content.as_ref(), 0o600);
        path
    }
}
