//! Timelines and their histories.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::lsn::Lsn;
use crate::error::{Error, Result};

/// A timeline's number; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TimelineId(u32);

impl TimelineId {
    /// The timeline that every cluster begins with.
    pub const FIRST: Self = Self(1);
    /// The highest number that there is.
    pub const LAST: Self = Self(u32::MAX);

    /// Timeline `number`.
    pub fn new(number: u32) -> Result<Self> {
        if number == 0 { Err(Error::usage("there is no timeline 0")) } else { Ok(Self(number)) }
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for TimelineId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        number
            .ok_or_else(|| Error::usage(format!("\"{text}\" is not the number of a timeline")))
            .and_then(Self::new)
    }
}

impl TryFrom<u32> for TimelineId {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self> {
        Self::new(number)
    }
}

impl From<TimelineId> for u32 {
    fn from(timeline: TimelineId) -> Self {
        timeline.0
    }
}

/// Where a timeline's ancestor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The ancestor.
    pub parent: TimelineId,
    /// Its WAL counts up to here.
    pub switch: Lsn,
    /// Why, as PostgreSQL wrote it.
    pub reason: String,
}

/// A part of a timeline's WAL that lies on one timeline: from `begin` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The timeline.
    pub timeline: TimelineId,
    /// First position.
    pub begin: Lsn,
    /// Where the next timeline takes over; `None` for the newest.
    pub end: Option<Lsn>,
}

/// The ancestry of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Whose history it is.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first. Their switch points need not ascend: a recovery that follows timeline 2 and ends
    /// before 2 began still names it.
    pub entries: Vec<HistoryEntry>,
}

impl History {
    /// The history of a timeline without ancestors.
    pub const fn root(timeline: TimelineId) -> Self {
        Self { timeline, entries: Vec::new() }
    }

    /// Parse a `.history` file as readTimeLineHistory (timeline.c) does: every line begins with a timeline and a switch
    /// point, only the timelines must ascend, and the rest of a line is ignored. A reason is bytes in the encoding of
    /// whoever named the restore point; here it is for showing.
    pub fn parse(timeline: TimelineId, text: &[u8]) -> Result<Self> {
        let mut history = Self::root(timeline);
        for line in text.split(|&byte| byte == b'\n') {
            let content = line.trim_ascii();
            if content.is_empty() || content.starts_with(b"#") {
                continue;
            }
            let wrong = |why: &str| {
                let line = String::from_utf8_lossy(content);
                Error::corrupt(format!("the history of timeline {timeline} is malformed: \"{line}\" {why}"))
            };
            let entry = HistoryEntry::parse(content)
                .ok_or_else(|| wrong("does not begin with a timeline and a switch point"))?;
            let ascends = history.entries.last().is_none_or(|last| last.parent < entry.parent);
            if !ascends || entry.parent >= timeline {
                return Err(wrong("is out of order"));
            }
            history.entries.push(entry);
        }
        Ok(history)
    }

    /// The stretches of WAL that lead to this timeline, oldest first, itself last. A position belongs to the newest
    /// timeline that has begun by then (tliOfPointInHistory): an ancestor ends where the first of all later ones begins,
    /// and one that has begun no earlier contributes nothing and is left out.
    pub fn lineage(&self) -> Vec<Stretch> {
        let mut stretches = Vec::with_capacity(self.entries.len() + 1);
        let (mut timeline, mut end) = (self.timeline, None);
        for entry in self.entries.iter().rev() {
            let begin = end.map_or(entry.switch, |end: Lsn| entry.switch.min(end));
            if end.is_none_or(|end| begin < end) {
                stretches.push(Stretch { timeline, begin, end });
            }
            (timeline, end) = (entry.parent, Some(begin));
        }
        stretches.push(Stretch { timeline, begin: Lsn::INVALID, end });
        stretches.reverse();
        stretches
    }

    /// Where `timeline` ends for this one, if that is an ancestor: also of one that contributes nothing, whose files
    /// PostgreSQL reads all the same where they begin with its own ancestors' WAL.
    pub fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let at = self.entries.iter().position(|entry| entry.parent == timeline)?;
        self.entries[at..].iter().map(|entry| entry.switch).min()
    }

    /// The stretch that lies on `timeline`, if that is this one or an ancestor that contributes something.
    pub fn stretch(&self, timeline: TimelineId) -> Option<Stretch> {
        self.lineage().into_iter().find(|stretch| stretch.timeline == timeline)
    }
}

impl HistoryEntry {
    /// `%u %X/%X`, and whatever follows.
    fn parse(line: &[u8]) -> Option<Self> {
        let (parent, rest) = line.split_at(line.iter().take_while(|byte| byte.is_ascii_digit()).count());
        let rest = rest.trim_ascii_start();
        let is_position = |byte: &&u8| byte.is_ascii_hexdigit() || **byte == b'/';
        let (switch, reason) = rest.split_at(rest.iter().take_while(is_position).count());
        let text = |bytes| std::str::from_utf8(bytes).ok();
        Some(Self {
            parent: text(parent)?.parse().ok()?,
            switch: text(switch)?.parse().ok()?,
            reason: String::from_utf8_lossy(reason.trim_ascii()).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn histories_parse_as_postgresql_reads_them() {
        let text =
            "# comment\n1\t0/3000000\tno recovery target specified\n\n 2\t0/5000100\tbefore 2026-11-22 x\n";
        let history = History::parse(id(4), text.as_bytes()).unwrap();
        let lineage = history.lineage();
        assert_eq!(lineage.len(), 3);
        assert_eq!(
            lineage[1],
            Stretch { timeline: id(2), begin: Lsn::new(0x300_0000), end: Some(Lsn::new(0x500_0100)) }
        );
        assert_eq!(history.stretch(id(4)).unwrap().begin, Lsn::new(0x500_0100));
        assert_eq!(history.stretch(id(3)), None);
        assert_eq!(history.entries[0].reason, "no recovery target specified");
    }

    /// Timeline and bounds of each stretch; the last has no end.
    fn stretches(timeline: u32, text: &str) -> Vec<(u32, u64, Option<u64>)> {
        let history = History::parse(id(timeline), text.as_bytes()).unwrap();
        let plain =
            |stretch: Stretch| (stretch.timeline.get(), stretch.begin.get(), stretch.end.map(Lsn::get));
        history.lineage().into_iter().map(plain).collect()
    }

    #[test]
    fn r4_switch_points_need_not_ascend_and_a_position_belongs_to_the_newest_that_has_begun() {
        // What PostgreSQL's 028_pitr_timelines.pl leaves: 2 was followed, and left before it began.
        let text = "1\t0/30240F0\tno recovery target specified\n\n2\t0/3018C78\tbefore 2026-11-22 x\n";
        let fork = 0x301_8C78;
        let expected = [(1, 0, Some(fork)), (3, fork, None)];
        assert_eq!(stretches(3, text), expected);
        // 2 contributes nothing, and PostgreSQL reads its file of that segment all the same where 3 has none.
        let history = History::parse(id(3), text.as_bytes()).unwrap();
        let ends = [1, 2, 3, 4].map(|timeline| history.end_of(id(timeline)).map(Lsn::get));
        assert_eq!(ends, [Some(fork), Some(fork), None, None]);
        for (text, expected) in [
            ("1 0/30\n2 0/18\n3 0/40", vec![(1, 0, Some(0x18)), (3, 0x18, Some(0x40)), (4, 0x40, None)]),
            ("1 0/10\n2 0/30\n3 0/20", vec![(1, 0, Some(0x10)), (2, 0x10, Some(0x20)), (4, 0x20, None)]),
            ("1 0/30\n2 0/20\n3 0/10", vec![(1, 0, Some(0x10)), (4, 0x10, None)]),
        ] {
            assert_eq!(stretches(4, text), expected, "{text}");
        }
    }

    #[test]
    fn r4_a_reason_is_bytes() {
        let history = History::parse(id(2), b"1\t0/3000000\tat restore point \"caf\xe9\"\r\n").unwrap();
        assert_eq!(history.entries[0].switch, Lsn::new(0x300_0000));
        assert!(history.entries[0].reason.starts_with("at restore point"));
    }

    #[test]
    fn what_postgresql_refuses_is_refused() {
        for text in ["x", "1", "1\tx", "4\t0/1\tr", "2\t0/1\n1\t0/2", "1\t0/1\n1\t0/2", "0\t0/1"] {
            History::parse(id(4), text.as_bytes()).unwrap_err();
        }
    }
}
