//! What a file must look like before it is archived (R3), and what its summary says.

use std::path::Path;

use crate::cluster::DataDir;
use crate::disk::{FileId, host_name};
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

/// R3, for what has no header that tells whose it is: refuse a history or a `.backup` file that lies neither in the pg_wal of
/// `data_dir`, whose control file this is, nor below another copy of the same cluster.
pub fn refuse_foreign(path: &Path, data_dir: &Path, control: &ControlFile) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()?.parse().ok());
    if !matches!(name, Some(WalName::History(_) | WalName::BackupHistory { .. })) {
        return Ok(());
    }
    let path = std::path::absolute(path).map_err(|cause| Error::io("find", path, &cause))?;
    let Some(directory) = path.parent() else { return Ok(()) };
    // Either may be a symbolic link, or have another name in another mount namespace.
    let same =
        FileId::at(directory).is_ok_and(|id| FileId::at(&data_dir.join("pg_wal")).is_ok_and(|own| own == id));
    let ours = control.system_identifier;
    let beside = || DataDir::open(directory.parent()?).ok()?.control().ok();
    let whose = match beside() {
        _ if same => return Ok(()),
        Some(other) if other.system_identifier == ours => return Ok(()),
        Some(other) => format!("{} is of the cluster {}", path.display(), other.system_identifier),
        None => format!("nothing beside {} says of which cluster it is", path.display()),
    };
    Err(Error::server(format!("{whose}, and {} is of the cluster {ours}", data_dir.display())).hint(
        "do two clusters share one configuration? by hand, push it from the pg_wal of cluster.data_dir",
    ))
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
                        "the segment was written by PostgreSQL {written_by}, but this cluster runs {major}"
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
