//! The digest of a file that PostgreSQL may rename meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::read_buffer::ReadBuffer;
use super::same::FileId;
use crate::error::{Error, Kind, Result};

const PIECE: usize = 1 << 20;

/// The digest of a file's content. `None` if it cannot be read, or another one took its name meanwhile, as PostgreSQL does it
/// with WAL that is archived.
pub async fn digest_of(path: PathBuf) -> Result<Option<blake3::Hash>> {
    let done = tokio::task::spawn_blocking(move || read(&path).ok().flatten()).await;
    done.map_err(|_| Error::new(Kind::Other, "a thread that reads a file died"))
}

fn read(path: &Path) -> io::Result<Option<blake3::Hash>> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), ReadBuffer::default());
    let buffer = buffer.take(PIECE);
    loop {
        match file.read(buffer)? {
            0 => break,
            read => drop(hasher.update(&buffer[..read])),
        }
    }
    let stays = FileId::of(&file.metadata()?) == FileId::at(path)?;
    Ok(stays.then(|| hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_has_the_digest_of_its_bytes_and_none_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(digest_of(path.clone()).await.unwrap(), None);
        let bytes = vec![7; PIECE + 1];
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(digest_of(path).await.unwrap(), Some(blake3::hash(&bytes)));
    }
}
