//! `wal-push` when the daemon has shipped the file already, which is nearly always: PostgreSQL calls it for every
//! segment, so it asks without building the command line parser or reading more of the configuration than it needs.
//! Whatever is out of the ordinary goes the usual way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::archive::{Asked, ask};
use crate::config::{DEFAULT_PATH, plain_socket};
use crate::error::Result;

/// The daemon was asked, and the work is left to do.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// When that began.
    pub(super) begin: Instant,
    /// Why.
    pub(super) why: String,
}

/// Ask the daemon if `arguments` are those that PostgreSQL uses: its answer, or what is left; `None` if they are not.
pub(super) fn push(arguments: &[OsString]) -> Option<Result<Result<()>, Unanswered>> {
    let begin = Instant::now();
    let (config, path) = plain(arguments)?;
    let (socket, timeout) = plain_socket(&config)?;
    // Longer than half of the time of the whole push would leave too little for doing the work.
    let timeout = if timeout.is_zero() { Duration::from_secs(30) } else { timeout / 2 };
    Some(match ask(&socket, &path, timeout) {
        Asked::Stored => Ok(Ok(())),
        Asked::Refused(error) => Ok(Err(error.context(format!("archive {}", path.display())))),
        Asked::DoItYourself(why) => Err(Unanswered { begin, why }),
    })
}

/// `wal-push PATH` with nothing but `--config FILE`: (configuration, path).
fn plain(arguments: &[OsString]) -> Option<(PathBuf, PathBuf)> {
    let environment = std::env::var_os("WALPROOF_CONFIG").filter(|path| !path.is_empty());
    let mut config = environment.map_or_else(|| PathBuf::from(DEFAULT_PATH), PathBuf::from);
    let (mut is_push, mut path) = (false, None);
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        let word = word.to_str()?;
        if word == "wal-push" && !is_push {
            is_push = true;
        } else if word == "--config" {
            config = words.next().filter(|value| !value.is_empty())?.into();
        } else if let Some(value) = word.strip_prefix("--config=") {
            config = value.into();
        } else if is_push && path.is_none() && !word.starts_with('-') {
            path = Some(Path::new(word).to_owned());
        } else {
            return None;
        }
    }
    Some((config, path?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain_words(words: &[&str]) -> Option<(PathBuf, PathBuf)> {
        plain(
            &std::iter::once("walproof").chain(words.iter().copied()).map(OsString::from).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn only_what_postgresql_says_is_plain() {
        let expected = Some((PathBuf::from("/c"), PathBuf::from("pg_wal/x")));
        assert_eq!(plain_words(&["wal-push", "pg_wal/x", "--config", "/c"]), expected);
        assert_eq!(plain_words(&["--config=/c", "wal-push", "pg_wal/x"]), expected);
        for words in [
            &["wal-push"][..],
            &["wal-push", "a", "b"],
            &["wal-push", "a", "--json"],
            &["wal-push", "-q", "a"],
            &["wal-push", "a", "--config"],
            &["wal-fetch", "a", "b"],
            &["pg_wal/x"],
        ] {
            assert_eq!(plain_words(words), None, "{words:?}");
        }
    }
}
