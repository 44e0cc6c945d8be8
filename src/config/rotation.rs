//! Secrets that are replaced while a daemon runs: their files are read again when they change. What cannot be read then
//! leaves the old value in place, and a warning.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::FileStamp;
use crate::error::Result;

/// A value that comes from files.
pub(super) struct Rotating<T> {
    /// For messages, such as "the S3 credentials".
    what: &'static str,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T> + Send + Sync>,
    last: Mutex<Last<T>>,
}

struct Last<T> {
    marks: Vec<Option<FileStamp>>,
    value: Arc<T>,
}

impl<T: PartialEq> Rotating<T> {
    /// What `read` makes of `files`, now and whenever they have changed. Fails when it cannot be read now.
    pub(super) fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        // Before reading: what changes meanwhile is read again.
        let marks = marks(&files);
        let value = Arc::new(read()?);
        Ok(Self { what, files, read: Box::new(read), last: Mutex::new(Last { marks, value }) })
    }

    /// The value that holds now.
    pub(super) fn current(&self) -> Arc<T> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = marks(&self.files);
        if now != last.marks {
            // Whatever comes of it is said once.
            last.marks = now;
            match (self.read)() {
                Ok(value) if value == *last.value => {}
                Ok(value) => {
                    last.value = Arc::new(value);
                    tracing::info!("{} were replaced", self.what);
                }
                Err(error) => {
                    tracing::warn!(%error, hint = error.hint_text(), "keeping {} that were read before", self.what);
                }
            }
        }
        Arc::clone(&last.value)
    }
}

fn marks(files: &[PathBuf]) -> Vec<Option<FileStamp>> {
    files.iter().map(|path| std::fs::metadata(path).ok().as_ref().map(FileStamp::of)).collect()
}

impl<T> fmt::Debug for Rotating<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rotating({})", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_keeps_the_old_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let read = {
            let path = path.clone();
            move || std::fs::read_to_string(&path).map_err(|cause| Error::io("read", &path, &cause))
        };
        Rotating::new("x", vec![path.clone()], read.clone()).unwrap_err();
        std::fs::write(&path, "old").unwrap();
        let rotating = Rotating::new("x", vec![path.clone()], read).unwrap();
        let first = rotating.current();
        assert_eq!(*first, "old");
        assert!(Arc::ptr_eq(&first, &rotating.current()), "read once");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*rotating.current(), "old");
        std::fs::write(&path, "new").unwrap();
        assert_eq!(*rotating.current(), "new");
    }
}
