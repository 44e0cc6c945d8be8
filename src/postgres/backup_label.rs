//! What pg_backup_stop returns: the backup label and the tablespace map.

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
    let missing = |key: &str| Error::corrupt(format!("there is no line \"{key} ...\" that makes sense"));

    if field("INCREMENTAL FROM LSN:").is_some() {
        return Err(Error::server("it is that of an incremental backup")
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

/// A tablespace outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceEntry {
    /// Its object id, the name of the link in `pg_tblspc`.
    pub oid: u32,
    /// The directory that the link leads to.
    pub path: String,
}

/// The file `tablespace_map`, from which a server makes the links in `pg_tblspc` when recovery begins
/// (written by do_pg_backup_start in xlog.c, read by read_tablespace_map in xlogrecovery.c).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceMap(pub Vec<TablespaceEntry>);

impl TablespaceMap {
    /// Parse the file; an empty one means that there are no tablespaces. Corrupt if a line makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        let mut line = String::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => line.extend(characters.next()),
                '\n' | '\r' => entries.extend(entry(&std::mem::take(&mut line))?),
                other => line.push(other),
            }
        }
        entries.extend(entry(&line)?);
        Ok(Self(entries))
    }

    /// The file, as PostgreSQL writes it.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for entry in &self.0 {
            text.push_str(&entry.oid.to_string());
            text.push(' ');
            for character in entry.path.chars() {
                if matches!(character, '\n' | '\r' | '\\') {
                    text.push('\\');
                }
                text.push(character);
            }
            text.push('\n');
        }
        text
    }
}

/// One unescaped line; PostgreSQL skips empty ones.
fn entry(line: &str) -> Result<Option<TablespaceEntry>> {
    if line.is_empty() {
        return Ok(None);
    }
    let parsed = line.split_once(' ').and_then(|(oid, path)| {
        let digits = oid.bytes().all(|byte| byte.is_ascii_digit()) && !path.is_empty();
        digits.then(|| oid.parse().ok()).flatten().map(|oid| TablespaceEntry { oid, path: path.to_owned() })
    });
    match parsed {
        Some(entry) => Ok(Some(entry)),
        None => Err(Error::corrupt(format!("tablespace map: {line:?} makes no sense"))),
    }
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
    fn tablespace_maps_round_trip() {
        let text = "16384 /srv/fast\n16385 /srv/a b\\\\c\\\nd\\\re\n";
        let map = TablespaceMap::parse(text).unwrap();
        assert_eq!(map.0[0], TablespaceEntry { oid: 16384, path: "/srv/fast".into() });
        assert_eq!(map.0[1], TablespaceEntry { oid: 16385, path: "/srv/a b\\c\nd\re".into() });
        assert_eq!(map.render(), text);
        assert_eq!(TablespaceMap::parse("").unwrap(), TablespaceMap::default());
        assert_eq!(TablespaceMap::parse("\n1 /x\r\n").unwrap().0.len(), 1);
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused() {
        for text in ["x", "1", "1 \n", " /x\n", "+1 /x\n", "4294967296 /x\n", "1\t/x\n"] {
            TablespaceMap::parse(text).unwrap_err();
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        let map = "16384 /a\\\\b\n";
        for text in [LABEL, map] {
            for (index, _) in text.char_indices() {
                for other in ["", "\n", "\\", "\0", "é", "9", "F", " ", "/"] {
                    let changed = format!("{}{other}{}", &text[..index], &text[index + 1..]);
                    let _ = BackupLabel::parse(&changed);
                    let _ = TablespaceMap::parse(&changed);
                }
                let _ = BackupLabel::parse(&text[..index]);
                let _ = TablespaceMap::parse(&text[..index]);
            }
        }
    }
}
