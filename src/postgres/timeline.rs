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
    /// Its ancestors, oldest first.
    pub entries: Vec<HistoryEntry>,
}

impl History {
    /// The history of a timeline without ancestors.
    pub const fn root(timeline: TimelineId) -> Self {
        Self { timeline, entries: Vec::new() }
    }

    /// Parse a `.history` file by the rules of readTimeLineHistory (timeline.c).
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self> {
        let mut history = Self::root(timeline);
        for line in text.lines() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong =
                || Error::corrupt(format!("history of timeline {timeline}: \"{content}\" makes no sense"));
            let mut fields = content.splitn(3, char::is_whitespace);
            let parent: TimelineId = fields.next().and_then(|field| field.parse().ok()).ok_or_else(wrong)?;
            let switch: Lsn = fields.next().and_then(|field| field.parse().ok()).ok_or_else(wrong)?;
            let reason = fields.next().unwrap_or_default().trim().to_owned();
            let increasing =
                history.entries.last().is_none_or(|last| last.parent < parent && last.switch <= switch);
            if !increasing || parent >= timeline {
                return Err(wrong());
            }
            history.entries.push(HistoryEntry { parent, switch, reason });
        }
        Ok(history)
    }

    /// The stretches of WAL that lead to this timeline, oldest first, itself last.
    pub fn lineage(&self) -> Vec<Stretch> {
        let mut begin = Lsn::INVALID;
        let mut stretches = Vec::with_capacity(self.entries.len() + 1);
        for entry in &self.entries {
            stretches.push(Stretch { timeline: entry.parent, begin, end: Some(entry.switch) });
            begin = entry.switch;
        }
        stretches.push(Stretch { timeline: self.timeline, begin, end: None });
        stretches
    }

    /// The stretch that lies on `timeline`, if that is this one or an ancestor.
    pub fn stretch(&self, timeline: TimelineId) -> Option<Stretch> {
        self.lineage().into_iter().find(|stretch| stretch.timeline == timeline)
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
        let history = History::parse(id(4), text).unwrap();
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

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["x", "1", "1\tx", "4\t0/1\tr", "2\t0/1\n1\t0/2", "1\t0/2\n2\t0/1", "0\t0/1"] {
            History::parse(id(4), text).unwrap_err();
        }
    }
}
