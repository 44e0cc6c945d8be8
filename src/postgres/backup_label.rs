//! What pg_backup_stop returns: the backup label.

use super::lsn::Lsn;
use super::timeline::TimelineId;
use super::wal_name::SegmentName;
use crate::error::{Error, Result, ResultExt as _};

/// The file `backup_label`, which makes a server start recovery where the backup began (xlogbackup.c,
/// build_backup_content; read by read_backup_label in xlogrecovery.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start: Lsn,
    /// The segment that holds it.
    pub start_segment: SegmentName,
    /// The checkpoint record that the backup began with.
    pub checkpoint: Lsn,
    /// The timeline at the beginning of the backup.
    pub timeline: TimelineId,
    /// The file, byte for byte.
    pub text: String,
}

impl BackupLabel {
    /// Parse the file.
    ///
    /// Corrupt if a position is missing or the timelines contradict each other; Server for the label of an
    /// incremental backup, from which no server starts.
    pub fn parse(text: &str) -> Result<Self> {
        parse_label(text).context("backup label")
    }
}

fn parse_label(text: &str) -> Result<BackupLabel> {
    // Lines of an operator's own label come after these two and before the timeline.
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let missing = |key: &str| Error::corrupt(format!("the line \"{key} ...\" is missing or malformed"));

    if field("INCREMENTAL FROM LSN:").is_some() {
        return Err(Error::server("it belongs to an incremental backup")
            .hint("was the data directory restored from an incremental backup without pg_combinebackup?"));
    }

    let key = "START WAL LOCATION:";
    let location = field(key).and_then(|value| {
        let (start, file) = value.split_once(" (file ")?;
        Some((start.parse().ok()?, file.strip_suffix(')')?.parse().ok()?))
    });
    let (start, start_segment): (Lsn, SegmentName) = location.ok_or_else(|| missing(key))?;

    let key = "CHECKPOINT LOCATION:";
    let checkpoint = field(key).and_then(|value| value.parse().ok()).ok_or_else(|| missing(key))?;

    let key = "START TIMELINE:";
    let timeline = match field(key) {
        Some(value) => value.parse().map_err(|_| missing(key))?,
        None => start_segment.timeline,
    };
    if timeline != start_segment.timeline {
        return Err(Error::corrupt(format!("timeline {timeline} is not that of segment {start_segment}")));
    }
    Ok(BackupLabel { start, start_segment, checkpoint, timeline, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-22 13:00:00 UTC\n\
        LABEL: walproof\n\
        START TIMELINE: 1\n";

    #[test]
    fn a_label_parses_and_stays_as_it_is() {
        let label = BackupLabel::parse(LABEL).unwrap();
        assert_eq!(label.start, Lsn::new(0x200_0028));
        assert_eq!(label.checkpoint, Lsn::new(0x200_0060));
        assert_eq!(label.start_segment.to_string(), "000000010000000000000002");
        assert_eq!(label.timeline, TimelineId::FIRST);
        assert_eq!(label.text, LABEL);
        BackupLabel::parse(&LABEL.replace("walproof", "wal\nproof")).unwrap();
        let old = LABEL.replace("START TIMELINE: 1\n", "");
        assert_eq!(BackupLabel::parse(&old).unwrap().timeline, TimelineId::FIRST);
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for (from, to) in [
            ("(file ", "("),
            ("02)", "02"),
            ("CHECKPOINT LOCATION", "CHECKPOINT"),
            ("TIMELINE: 1", "TIMELINE: 2"),
            ("TIMELINE: 1", "TIMELINE: x"),
            ("0/2000060", "0/"),
        ] {
            let error = BackupLabel::parse(&LABEL.replace(from, to)).unwrap_err();
            assert!(error.to_string().starts_with("backup label: "), "{error}");
        }
        BackupLabel::parse("").unwrap_err();
    }

    #[test]
    fn the_label_of_an_incremental_backup_is_refused() {
        let error = BackupLabel::parse(&format!("{LABEL}INCREMENTAL FROM LSN: 0/1000028\n")).unwrap_err();
        assert!(error.to_string().contains("incremental backup"), "{error}");
        assert!(error.hint_text().is_some());
    }

    #[test]
    fn no_text_makes_it_panic() {
        for (index, _) in LABEL.char_indices() {
            for other in ["", "\n", "\\", "\0", "é", "9", "F", " ", "/"] {
                let _ = BackupLabel::parse(&format!("{}{other}{}", &LABEL[..index], &LABEL[index + 1..]));
            }
            let _ = BackupLabel::parse(&LABEL[..index]);
        }
    }
}
