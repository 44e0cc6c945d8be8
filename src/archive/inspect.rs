//! What a file must look like before it is archived (R3), and what its summary says.

use std::path::Path;

use crate::disk::host_name;
use crate::error::{Error, Result};
use crate::format::{Inspect, Summary};
use crate::postgres::{ControlFile, History, Major, SegmentName, TimelineId, WalName};
use crate::wal::{SegmentChecker, SegmentContent, WalScanner};

/// Longest `.history` or `.backup` file that is believed: real ones are a few lines.
const LONGEST_TEXT: usize = 1 << 20;

/// The right inspection for a WAL file of `control`'s cluster.
pub(super) enum Inspection {
    Segment(Major, String, Box<SegmentChecker>, Box<WalScanner>),
    History(TimelineId, Vec<u8>),
    BackupHistory(Vec<u8>),
}

impl Inspection {
    /// For the file `name` at `path`.
    pub(super) fn of(name: WalName, control: &ControlFile, path: &Path) -> Result<Self> {
        let size = control.segment_size;
        if name.segment().is_some_and(|segment| !segment.is_valid_for(size)) {
            return Err(Error::usage(format!(
                "\"{name}\" is not the name of a WAL file with segments of {} bytes",
                size.bytes()
            )));
        }
        let segment = |segment: SegmentName, content| {
            let checker = SegmentChecker::new(segment, size, control.system_identifier, content);
            let scanner = WalScanner::new(segment.start(size), size);
            Self::Segment(control.major, writer(path), Box::new(checker), Box::new(scanner))
        };
        Ok(match name {
            WalName::Segment(name) => segment(name, SegmentContent::Full),
            WalName::Partial(name) => segment(name, SegmentContent::Partial),
            WalName::History(timeline) => Self::History(timeline, Vec::new()),
            WalName::BackupHistory { .. } => Self::BackupHistory(Vec::new()),
        })
    }
}

/// The server that the segment at `path` is of: its host and data directory.
fn writer(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(&path);
    let data_dir = directory.parent().filter(|_| directory.ends_with("pg_wal")).unwrap_or(directory);
    format!("{}:{}", host_name(), data_dir.display())
}

impl Inspect for Inspection {
    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Segment(_, _, checker, scanner) => {
                checker.feed(bytes)?;
                scanner.feed(bytes);
            }
            Self::History(_, text) | Self::BackupHistory(text) => {
                text.extend_from_slice(bytes);
                if text.len() > LONGEST_TEXT {
                    return Err(Error::corrupt("the file is much too long for what its name says"));
                }
            }
        }
        Ok(())
    }

    fn finish(self, plain_len: u64) -> Result<Summary> {
        match self {
            Self::Segment(major, writer, checker, scanner) => {
                let written_by = checker.finish()?.major;
                if written_by != major {
                    return Err(Error::server(format!(
                        "the segment was written by PostgreSQL {written_by}, this cluster is of {major}"
                    ))
                    .hint("do two clusters share one configuration?"));
                }
                Ok(Summary { writer, ..Summary::of_segment(plain_len, scanner.finish()) })
            }
            Self::History(timeline, text) => {
                let history = History::parse(timeline, &text)?;
                if history.entries.is_empty() {
                    // Stored, it would make a timeline that no backup leads to the newest one.
                    return Err(Error::corrupt(format!(
                        "the history of timeline {timeline} names no ancestor"
                    )));
                }
                Ok(Summary::of_length(plain_len))
            }
            Self::BackupHistory(text) => {
                if !text.starts_with(b"START WAL LOCATION") {
                    return Err(Error::corrupt("the file is not a backup history file"));
                }
                Ok(Summary::of_length(plain_len))
            }
        }
    }
}
