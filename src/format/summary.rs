//! What a WAL object says about its segment in its first frame, FORMAT.md "WAL objects": enough to know which
//! instants, transactions and restore points lie in it without reading it whole.

use crate::encoding::take;
use crate::error::{Error, Result};
use crate::postgres::{Lsn, PgTime};
use crate::wal::{Links, RestorePoint, WalSummary};

const COMPLETE: u32 = 1;
const NONE: i64 = i64::MIN;
const FIXED_LEN: usize = 52 + Links::LEN;
/// More restore points than this in one segment are not recorded; targets by those names are then unknown.
const MOST_RESTORE_POINTS: usize = 64;
/// Its length is told in one byte.
const LONGEST_TEXT: usize = 255;

/// The summary of a WAL file. All zero for files that are no segments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Bytes of the file.
    pub plain_len: u64,
    /// End of the last complete record in the segment.
    pub end: Lsn,
    /// Earliest and latest time of a commit, abort or restore point.
    pub times: Option<(PgTime, PgTime)>,
    /// Number of commits.
    pub commits: u32,
    /// Smallest and largest id of a transaction that ends here (circular order is not resolved).
    pub xids: Option<(u32, u32)>,
    /// Whether every record could be read; if not, the other fields tell of those before.
    pub complete: bool,
    /// How its records are linked to those of its neighbours.
    pub links: Links,
    /// Restore points.
    pub restore_points: Vec<RestorePoint>,
    /// The server whose segment this was when it was archived, as `host:data directory`; empty where it is not known.
    pub writer: String,
}

impl Summary {
    /// The summary of a file that is not a segment.
    pub fn of_length(plain_len: u64) -> Self {
        Self { plain_len, ..Self::default() }
    }

    /// The summary of a scanned segment.
    pub fn of_segment(plain_len: u64, scan: WalSummary) -> Self {
        let complete = scan.complete && scan.restore_points.len() <= MOST_RESTORE_POINTS;
        let mut restore_points = scan.restore_points;
        restore_points.truncate(MOST_RESTORE_POINTS);
        Self {
            plain_len,
            end: scan.end,
            times: scan.first_time.zip(scan.last_time),
            commits: scan.commits,
            xids: scan.min_xid.zip(scan.max_xid),
            complete,
            links: scan.links,
            restore_points,
            writer: String::new(),
        }
    }

    /// The plaintext of the first frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_LEN);
        bytes.extend_from_slice(&self.plain_len.to_le_bytes());
        bytes.extend_from_slice(&self.end.get().to_le_bytes());
        let times =
            self.times.map_or((NONE, NONE), |(first, last)| (first.unix_micros(), last.unix_micros()));
        bytes.extend_from_slice(&times.0.to_le_bytes());
        bytes.extend_from_slice(&times.1.to_le_bytes());
        let xids = self.xids.unwrap_or((0, 0));
        let points = u32::try_from(self.restore_points.len()).unwrap_or_default();
        for word in [self.commits, xids.0, xids.1, if self.complete { COMPLETE } else { 0 }, points] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.links.to_bytes());
        for point in &self.restore_points {
            bytes.extend_from_slice(&point.time.unix_micros().to_le_bytes());
            bytes.extend_from_slice(&point.lsn.get().to_le_bytes());
            add_text(&point.name, &mut bytes);
        }
        if !self.writer.is_empty() {
            add_text(&self.writer, &mut bytes);
        }
        bytes
    }

    /// Parse what [`Summary::to_bytes`] makes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| Error::corrupt("a WAL summary is malformed"))
    }

    fn read(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let plain_len = u64::from_le_bytes(take(input)?);
        let end = Lsn::new(u64::from_le_bytes(take(input)?));
        let first = i64::from_le_bytes(take(input)?);
        let last = i64::from_le_bytes(take(input)?);
        let mut word = || Some(u32::from_le_bytes(take(input)?));
        let (commits, min_xid, max_xid, flags, points) = (word()?, word()?, word()?, word()?, word()?);
        let links = Links::from_bytes(take(input)?);
        let mut restore_points = Vec::new();
        for _ in 0..points {
            let time = PgTime::from_unix_micros(i64::from_le_bytes(take(input)?));
            let lsn = Lsn::new(u64::from_le_bytes(take(input)?));
            restore_points.push(RestorePoint { name: take_text(input)?, time, lsn });
        }
        let writer = if input.is_empty() { String::new() } else { take_text(input)? };
        let times =
            (first != NONE).then(|| (PgTime::from_unix_micros(first), PgTime::from_unix_micros(last)));
        let xids = (max_xid != 0).then_some((min_xid, max_xid));
        let complete = flags & COMPLETE != 0;
        Some(Self { plain_len, end, times, commits, xids, complete, links, restore_points, writer })
    }
}

/// Its length in one byte, then the text; what is longer is cut.
fn add_text(text: &str, bytes: &mut Vec<u8>) {
    let text = &text.as_bytes()[..text.len().min(LONGEST_TEXT)];
    bytes.push(u8::try_from(text.len()).unwrap_or_default());
    bytes.extend_from_slice(text);
}

fn take_text(input: &mut &[u8]) -> Option<String> {
    let [len] = take::<1>(input)?;
    let (text, rest) = input.split_at_checked(usize::from(len))?;
    *input = rest;
    Some(String::from_utf8_lossy(text).into_owned())
}
