//! The one error of this program: a kind that says what the caller may do about it, a chain of
//! verb-and-noun contexts, and a hint where the cause is likely an operator's mistake.

use std::fmt;
use std::path::Path;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller may do about an error. Every kind has one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The arguments or the configuration are wrong: mend them.
    Usage,
    /// The store answered that the object is not there.
    NotFound,
    /// Other bytes are stored under that name.
    Conflict,
    /// The store cannot be reached or does not hold this repository; trying again may help.
    Unreachable,
    /// The store refuses us: credentials or permissions. Trying again does not help.
    Denied,
    /// Bytes are corrupt, or tampered with.
    Corrupt,
    /// Bytes are sealed with a key that is not at hand: nothing is known of them. Bring the key.
    KeyMissing,
    /// PostgreSQL cannot be reached, or refuses, or is not the configured cluster.
    Server,
    /// Another backup, expiry or restore holds the lease.
    Busy,
    /// Not possible as asked: target outside the recovery window, directory not empty.
    Impossible,
    /// Anything else: the local disk, the operating system.
    Other,
}

impl Kind {
    /// The process exit code of this kind, the table in the README.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Conflict => 3,
            Self::Unreachable | Self::Denied => 4,
            // An object that must be there and is not: the repository is damaged.
            Self::NotFound | Self::Corrupt | Self::KeyMissing => 5,
            Self::Server => 6,
            Self::Busy => 7,
            Self::Impossible => 8,
            Self::Other => 9,
        }
    }
}

impl Kind {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Corrupt => "corrupt",
            Self::KeyMissing => "key_missing",
            Self::Server => "server",
            Self::Busy => "busy",
            Self::Impossible => "impossible",
            Self::Other => "other",
        }
    }

    /// Whether an object is there and cannot be read here: it is damaged, or its key is not at hand.
    pub const fn is_unreadable(self) -> bool {
        matches!(self, Self::Corrupt | Self::KeyMissing)
    }
}

/// An error on its way up to the operator. Printed as `outer context: inner context: cause`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Error {
    /// An error of `kind`; `message` is lower case, without a full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Wrong arguments or configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Bytes that are not what they must be.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// PostgreSQL is not there, refuses, or is not the configured one.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(Kind::Server, message)
    }

    /// Not possible as asked.
    pub fn impossible(message: impl Into<String>) -> Self {
        Self::new(Kind::Impossible, message)
    }

    /// A failed call of the operating system on `path`; `verb` as in "open".
    pub fn io(verb: &str, path: &Path, cause: &std::io::Error) -> Self {
        let error = Self::new(Kind::Other, format!("{verb} {}: {cause}", path.display()));
        match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                error.hint("is the file system full? free some space there, then run the same command again")
            }
            std::io::ErrorKind::PermissionDenied => {
                error.hint("does this command run as the user that owns the files (usually postgres)?")
            }
            _ => error,
        }
    }

    /// The same error with `context` in front ("read backup label").
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The same error with the question that finds the cause, unless a closer one is there already.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// The same error as another kind, where the caller knows better what it means.
    #[must_use]
    pub fn as_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error where "not found" proves nothing: what was not found had to be there for the question itself
    /// (the repository, an object that was just listed), so the store is not the right one or does not tell the truth.
    #[must_use]
    pub fn absence_proves_nothing(self) -> Self {
        if self.kind == Kind::NotFound { self.as_kind(Kind::Unreachable) } else { self }
    }

    /// The same error where "not found" is the store's plain answer to an operator who asked for what is not there.
    #[must_use]
    pub fn absence_is_impossible(self) -> Self {
        if self.kind == Kind::NotFound { self.as_kind(Kind::Impossible) } else { self }
    }

    /// What the caller may do about it.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The question that finds the cause, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Foreign messages may span lines; the operator gets one.
        let mut lines = self.message.lines().map(str::trim).filter(|line| !line.is_empty());
        f.write_str(lines.next().unwrap_or("unknown error"))?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

impl std::error::Error for Error {}

/// What a library's error says together with its causes, for libraries that say only there what
/// went wrong.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Context and hints on results.
pub trait ResultExt<T> {
    /// Put `context` in front of the error.
    fn context(self, context: impl fmt::Display) -> Result<T>;
    /// Like [`ResultExt::context`], made only when needed.
    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Result<T>;
    /// Add the question that finds the cause.
    fn hint(self, hint: &str) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn context(self, context: impl fmt::Display) -> Self {
        self.map_err(|error| error.context(context))
    }

    fn with_context<C: fmt::Display>(self, context: impl FnOnce() -> C) -> Self {
        self.map_err(|error| error.context(context()))
    }

    fn hint(self, hint: &str) -> Self {
        self.map_err(|error| error.hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_its_contexts_in_front() {
        let error = Error::corrupt("bad\n  frame").context("open wal").context("fetch 01");
        assert_eq!(error.to_string(), "fetch 01: open wal: bad; frame");
        assert_eq!(error.kind().exit_code(), 5);
    }

    #[test]
    fn the_innermost_hint_wins() {
        let error = Error::usage("x").hint("inner?").hint("outer?");
        assert_eq!(error.hint_text(), Some("inner?"));
    }
}
