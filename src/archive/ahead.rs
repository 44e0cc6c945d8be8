//! Taking a segment that was opened ahead: ask the prefetcher, check what it laid ready, rename it into place. Without a
//! prefetcher, or where anything is odd, the caller does the work itself.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tempfile::TempPath;

use super::fetch::directory_of;
use super::spool::Spool;
use crate::disk::{FileStamp, ReadBuffer};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{ClusterName, Identity, WalDigest};
use crate::postgres::{SegmentName, TimelineId};
use crate::repository::open_identity;
use crate::seal::KeyRing;
use crate::wal::{SegmentChecker, SegmentContent};

/// The first word of every line: another version is not understood, and then there is no prefetcher.
const GREETING: &str = concat!("walproof-ahead/", env!("CARGO_PKG_VERSION"));
/// A prefetcher that does not take a line for this long is hanging.
const SILENCE: Duration = Duration::from_secs(1);
const CHUNK: usize = 1 << 20;

/// What a call says to the prefetcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// Whether the segment is wanted; else recovery has it, and goes on from there.
    pub(super) wanted: bool,
    pub(super) segment: SegmentName,
    /// The timeline that recovery follows, where it is known.
    pub(super) follows: Option<TimelineId>,
    /// How long the answer may take while the segment is on its way.
    pub(super) patience: Duration,
}

impl Call {
    fn to_line(self) -> String {
        let verb = if self.wanted { "want" } else { "at" };
        let follows = self.follows.map_or(0, TimelineId::get);
        format!("{GREETING} {verb} {} {follows} {}\n", self.segment, self.patience.as_millis())
    }

    /// Parse a line; `None` for what this version does not know.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_suffix('\n')?.split(' ').collect();
        let [GREETING, verb, segment, follows, patience] = words.as_slice() else { return None };
        let wanted = match *verb {
            "want" => true,
            "at" => false,
            _ => return None,
        };
        let follows: u32 = follows.parse().ok()?;
        Some(Self {
            wanted,
            segment: segment.parse().ok()?,
            follows: TimelineId::new(follows).ok(),
            patience: Duration::from_millis(patience.parse().ok()?),
        })
    }
}

/// The name of a segment that lies ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) segment: SegmentName,
    /// Of its content.
    pub(super) digest: WalDigest,
    /// That whoever laid it ready knew the repository's secret.
    proof: String,
}

impl Label {
    pub(super) fn of(identity: &Identity, segment: SegmentName, digest: WalDigest) -> Result<Self> {
        Ok(Self { segment, digest, proof: identity.spool_proof(&segment, digest)? })
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.segment, self.digest, self.proof)
    }
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::corrupt(format!("\"{text}\" is not the name of a spooled segment"));
        let words: Vec<&str> = text.split('-').collect();
        let [segment, digest, proof] = words.as_slice() else { return Err(wrong()) };
        let hexadecimal = proof.bytes().all(|byte| byte.is_ascii_hexdigit());
        let proof = Some(*proof).filter(|proof| proof.len() == 32 && hexadecimal).ok_or_else(wrong)?;
        Ok(Self { segment: segment.parse()?, digest: digest.parse()?, proof: proof.to_owned() })
    }
}

/// The segments of one repository that may lie ready in a spool.
#[derive(Debug)]
pub struct Ahead<'a> {
    /// Where.
    pub spool: &'a Spool,
    /// Of the repository.
    pub keys: &'a KeyRing,
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// And that's system identifier.
    pub system_identifier: u64,
    /// The timeline that recovery follows, where it is known.
    pub follows: Option<TimelineId>,
}

impl Ahead<'_> {
    /// Take `segment`, waiting for it no longer than `patience` where it is on its way. `None` if it is not to be had here,
    /// which says nothing about the repository.
    pub fn take(&self, segment: SegmentName, patience: Duration) -> Option<Taken> {
        let call = Call { wanted: true, segment, follows: self.follows, patience };
        let (name, stamp) = match converse(self.spool, call) {
            Ok(Some(ready)) => ready,
            Ok(None) => return None,
            Err(error) => {
                tracing::debug!(%error, "cannot ask the prefetcher");
                return None;
            }
        };
        let taken = self.claim(segment, &name, &stamp);
        taken.inspect_err(|error| tracing::debug!(%error, "cannot take a spooled segment")).ok()
    }

    /// Tell the prefetcher that recovery has `segment`; whether there is one.
    pub fn tell(&self, segment: SegmentName) -> bool {
        let call = Call { wanted: false, segment, follows: self.follows, patience: Duration::ZERO };
        converse(self.spool, call).is_ok()
    }

    fn claim(&self, segment: SegmentName, name: &str, stamp: &str) -> Result<Taken> {
        let label: Label = name.parse()?;
        let (path, file, found) = self.spool.take(name)?;
        let sealed = self.spool.sealed_identity()?;
        let identity = open_identity(self.keys, self.cluster, self.system_identifier, &sealed)?;
        if Label::of(&identity, segment, label.digest)? != label {
            return Err(Error::corrupt("it was laid ready for something else"));
        }
        Ok(Taken { path, file, untouched: found.to_string() == stamp, label, identity })
    }
}

/// A segment that is this call's alone.
#[derive(Debug)]
pub struct Taken {
    path: TempPath,
    file: File,
    /// Nobody has written to it since the prefetcher, which still runs, checked it and laid it ready.
    untouched: bool,
    label: Label,
    identity: Identity,
}

impl Taken {
    /// Let it appear at `to`, checked (R7): by the prefetcher, if nobody has touched it since, else now. On an error nothing
    /// has appeared.
    pub fn deliver(self, to: &Path) -> Result<()> {
        let directory = directory_of(to);
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
        if device(directory).ok() == device(&self.path).ok() {
            if !self.untouched {
                self.check(|_| Ok(()))?;
            }
            match std::fs::rename(&self.path, to) {
                Ok(()) => {
                    // What is left to be removed has another name now.
                    drop(self.path.keep());
                    return Ok(());
                }
                // One device, mounted twice.
                Err(cause) if cause.kind() == std::io::ErrorKind::CrossesDevices => {}
                Err(cause) => return Err(Error::io("rename into place", to, &cause)),
            }
        }
        let failed = |cause: std::io::Error| Error::io("write", to, &cause);
        let mut copy = tempfile::Builder::new();
        let mut copy = copy.prefix(".walproof-fetch-").tempfile_in(directory).map_err(failed)?;
        self.check(|bytes| copy.write_all(bytes).map_err(failed))?;
        copy.persist(to).map(|_| ()).map_err(|error| failed(error.error))
    }

    /// Its bytes, checked.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        self.check(|bytes| {
            plain.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(plain)
    }

    /// Whether this is the content that the repository has under the segment's name, as `wal-fetch` itself would find it; `see`
    /// is given every byte that was looked at.
    fn check(&self, mut see: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (segment, size) = (self.label.segment, self.identity.segment_size()?);
        let of = self.identity.system_identifier;
        let mut checker = SegmentChecker::new(segment, size, of, SegmentContent::Full);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = ReadBuffer::default();
        let chunk = buffer.take(CHUNK);
        let mut file = &self.file;
        std::io::Seek::rewind(&mut file).map_err(|cause| Error::io("read", &self.path, &cause))?;
        let mut left = size.bytes();
        while left > 0 {
            let len = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            file.read_exact(&mut chunk[..len]).map_err(|cause| Error::io("read", &self.path, &cause))?;
            checker.feed(&chunk[..len]).context("a spooled segment")?;
            hasher.update(&chunk[..len]);
            see(&chunk[..len])?;
            left -= len as u64;
        }
        checker.finish().context("a spooled segment")?;
        let longer = file.read(&mut chunk[..1]).map_err(|cause| Error::io("read", &self.path, &cause))? > 0;
        if !longer && self.identity.wal_digest(hasher.finalize().as_bytes())? == self.label.digest.content() {
            return Ok(());
        }
        Err(Error::corrupt(format!("the spooled segment {segment} is damaged")))
    }
}

/// The name and stamp of what lies ready, if it is what was asked for.
fn converse(spool: &Spool, call: Call) -> Result<Option<(String, String)>> {
    let (path, _directory) = spool.socket()?;
    let failed = |cause: std::io::Error| Error::io("ask", &path, &cause).as_kind(Kind::Other);
    let stream = UnixStream::connect(&path).map_err(failed)?;
    stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
    stream.set_read_timeout(Some(call.patience + SILENCE)).map_err(failed)?;
    (&stream).write_all(call.to_line().as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream.take(512)).read_line(&mut line).map_err(failed)?;
    let words: Vec<&str> = line.strip_suffix('\n').unwrap_or_default().split(' ').collect();
    match words.as_slice() {
        ["ready", name, stamp] => Ok(Some(((*name).to_owned(), (*stamp).to_owned()))),
        ["none"] => Ok(None),
        _ => Err(Error::new(Kind::Other, "the prefetcher speaks another version")),
    }
}

/// A segment that lies ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) label: Label,
    pub(super) stamp: FileStamp,
}

/// The answer to a call.
pub(super) fn answer(ready: Option<&Ready>) -> String {
    ready.map_or_else(|| "none\n".to_owned(), |Ready { label, stamp }| format!("ready {label} {stamp}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_round_trip_and_another_version_is_not_understood() {
        let segment = "000000010000000000000003".parse().unwrap();
        for (wanted, follows) in [(true, None), (false, TimelineId::new(7).ok())] {
            let call = Call { wanted, segment, follows, patience: Duration::from_millis(1500) };
            assert_eq!(Call::parse(&call.to_line()), Some(call));
            assert_eq!(Call::parse(&call.to_line().replace("ahead/", "ahead/9")), None);
            assert_eq!(Call::parse(call.to_line().trim_end()), None, "half a line");
        }
        assert_eq!(Call::parse(&format!("{GREETING} have {segment} 0 0\n")), None);
    }
}
