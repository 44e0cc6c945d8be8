//! Keys that are replaced while a daemon runs.

use std::time::Duration;

use super::raw::Encryption;
use super::rotation::Rotating;
use super::secret;
use crate::error::Result;
use crate::seal::KeyRing;

/// Between two looks at a key file.
const LOOK: Duration = Duration::from_secs(5);
/// Between two runs of a key command, which may ask a service that counts.
const RUN: Duration = Duration::from_mins(10);

/// Keeps a ring up to date with the file or the command that it came from.
#[derive(Debug)]
pub struct KeyFollower(Source);

#[derive(Debug)]
enum Source {
    File(Rotating<KeyRing>),
    Command(Encryption),
}

impl KeyFollower {
    pub(super) fn of(encryption: &Encryption) -> Result<Option<Self>> {
        if !encryption.is_on() {
            return Ok(None);
        }
        let source = encryption.clone();
        let Some(file) = encryption.key_file() else { return Ok(Some(Self(Source::Command(source)))) };
        let read = move || source.keys(secret::COMMAND_PATIENCE);
        Rotating::new("the keys", vec![file], read).map(|rotating| Some(Self(Source::File(rotating))))
    }

    /// Keep `ring` up to date for ever: for a thread of its own.
    pub fn follow(&self, ring: &KeyRing) {
        loop {
            std::thread::sleep(match &self.0 {
                Source::File(_) => LOOK,
                Source::Command(_) => RUN,
            });
            match &self.0 {
                Source::File(rotating) => ring.replace(&rotating.current()),
                Source::Command(encryption) => match encryption.keys(secret::COMMAND_PATIENCE) {
                    Ok(keys) => ring.replace(&keys),
                    Err(error) => tracing::warn!(%error, "keeping the keys that were read before"),
                },
            }
        }
    }
}
