//! What `wal-push` and the daemon say to each other: one line each way, over a Unix socket. A daemon or a client of
//! another version is not understood, and then `wal-push` does the work itself.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::disk::FileId;
use crate::error::{Error, Kind, Result};

/// The first word of every request.
const GREETING: &str = "walproof/1";

/// Which repository is meant, in a form that tells two apart and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination(String);

impl Destination {
    /// Of the place with this description.
    pub fn of(description: &str) -> Self {
        Self(blake3::hash(description.as_bytes()).to_hex()[..32].to_owned())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Destination {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::corrupt(format!("\"{text}\" is not a destination")))
    }
}

/// What a client asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Is this file durable in the repository? If not, push it, and say when it is.
    Push {
        /// The file as the client sees it: two mount namespaces may differ.
        file: FileId,
        /// Of the client's cluster.
        system_identifier: u64,
        /// The repository that the client's configuration means.
        destination: Destination,
        /// Its absolute path.
        path: PathBuf,
    },
    /// A snapshot, as one line of JSON.
    Status,
    /// A backup has just ended on this host; whether it exists.
    BackupEnded(bool),
    /// Retention was just enforced on this host.
    Expired,
    /// A verification or a drill has just ended on this host.
    Proven,
}

impl Request {
    /// As one line; `None` for a path that no line can hold.
    pub fn to_line(&self) -> Option<String> {
        Some(match self {
            Self::Push { file: FileId { device, inode }, system_identifier, destination, path } => {
                let path = path.to_str().filter(|path| !path.contains(['\n', '\r']))?;
                format!("{GREETING} push {device} {inode} {system_identifier} {destination} {path}\n")
            }
            Self::Status => format!("{GREETING} status\n"),
            Self::BackupEnded(true) => format!("{GREETING} backup-done\n"),
            Self::BackupEnded(false) => format!("{GREETING} backup-failed\n"),
            Self::Expired => format!("{GREETING} expired\n"),
            Self::Proven => format!("{GREETING} proven\n"),
        })
    }

    /// Parse a line; `None` for what this version does not know.
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.trim_end_matches('\n').strip_prefix(GREETING)?.strip_prefix(' ')?;
        match rest.split_once(' ') {
            None if rest == "status" => Some(Self::Status),
            None if rest == "backup-done" => Some(Self::BackupEnded(true)),
            None if rest == "backup-failed" => Some(Self::BackupEnded(false)),
            None if rest == "expired" => Some(Self::Expired),
            None if rest == "proven" => Some(Self::Proven),
            Some(("push", rest)) => {
                let mut words = rest.splitn(5, ' ');
                let file = FileId { device: words.next()?.parse().ok()?, inode: words.next()?.parse().ok()? };
                let system_identifier = words.next()?.parse().ok()?;
                let destination = words.next()?.parse().ok()?;
                let path = PathBuf::from(words.next()?);
                path.is_absolute().then_some(Self::Push { file, system_identifier, destination, path })
            }
            _ => None,
        }
    }
}

/// What the daemon answers to a push. It says `Working` at once and every second until one of the others is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// I am alive and at it.
    Working,
    /// The bytes are durable in the repository (R1).
    Stored,
    /// They cannot be: other bytes are there, or the file is not what its name claims.
    Refused(Error),
    /// Do it yourself.
    Declined(String),
}

impl Answer {
    /// As one line.
    pub fn to_line(&self) -> String {
        match self {
            Self::Working => "working\n".to_owned(),
            Self::Stored => "stored\n".to_owned(),
            Self::Refused(error) => {
                let (message, hint) = (error.to_string(), error.hint_text().unwrap_or_default());
                format!("refused {}\t{}\t{}\n", word(error.kind()), one_field(&message), one_field(hint))
            }
            Self::Declined(why) => format!("declined {}\n", one_field(why)),
        }
    }

    /// Parse a line; `None` for what this version does not know.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        match line.split_once(' ').unwrap_or((line, "")) {
            ("working", "") => Some(Self::Working),
            ("stored", "") => Some(Self::Stored),
            ("declined", why) => Some(Self::Declined(why.to_owned())),
            ("refused", rest) => {
                let mut fields = rest.split('\t');
                let (kind, message, hint) = (kind(fields.next()?)?, fields.next()?, fields.next()?);
                let error = Error::new(kind, message);
                Some(Self::Refused(if hint.is_empty() { error } else { error.hint(hint) }))
            }
            _ => None,
        }
    }
}

fn one_field(text: &str) -> String {
    text.replace(['\n', '\r', '\t'], " ")
}

/// Errors that trying again cannot mend: the daemon's word on them is final. All others a client tries itself.
const FINAL: [(Kind, &str); 5] = [
    (Kind::Conflict, "conflict"),
    (Kind::Corrupt, "corrupt"),
    (Kind::KeyMissing, "key_missing"),
    (Kind::Server, "server"),
    (Kind::Usage, "usage"),
];

/// Whether the daemon's word on an error of this kind is final.
pub fn is_final(wanted: Kind) -> bool {
    FINAL.iter().any(|(kind, _)| *kind == wanted)
}

fn word(wanted: Kind) -> &'static str {
    FINAL.iter().find(|(kind, _)| *kind == wanted).map_or("other", |(_, word)| word)
}

fn kind(wanted: &str) -> Option<Kind> {
    FINAL.iter().find(|(_, word)| *word == wanted).map(|(kind, _)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(path: &str) -> Request {
        let file = FileId { device: 7, inode: u64::MAX };
        let destination = Destination::of("s3://bucket main");
        Request::Push { file, system_identifier: 42, destination, path: path.into() }
    }

    #[test]
    fn requests_and_answers_round_trip() {
        let push = push("/a b/pg_wal/x");
        let ended =
            [Request::BackupEnded(true), Request::BackupEnded(false), Request::Expired, Request::Proven];
        for request in [push, Request::Status].into_iter().chain(ended) {
            assert_eq!(Request::parse(&request.to_line().unwrap()), Some(request));
        }
        let refused = Answer::Refused(Error::new(Kind::Conflict, "a").hint("why?"));
        let without_hint = Answer::Refused(Error::corrupt("b"));
        let declined = Answer::Declined("not mine".into());
        for answer in [Answer::Working, Answer::Stored, refused, without_hint, declined] {
            assert_eq!(Answer::parse(&answer.to_line()), Some(answer));
        }
        let foreign = Answer::Refused(Error::new(Kind::Conflict, "a\nb\tc").hint("d\te"));
        assert_eq!(foreign.to_line(), "refused conflict\ta; b c\td e\n");
    }

    #[test]
    fn what_another_version_says_is_not_understood() {
        for line in ["", "\n", "walproof/2 status\n", "walproof/1 push 1 x /a\n", "walproof/1 push 1 2 /a\n"]
        {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
        for line in ["", "stored", "stored 1\n", "ok\n", "refused other\tx\t\n", "refused conflict\n"] {
            assert_eq!(Answer::parse(line), None, "{line:?}");
        }
        assert_eq!(push("/a\nb").to_line(), None);
    }
}
