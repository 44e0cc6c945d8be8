//! How a segment's records follow those of the segment before and lead on to the next: what two neighbours say of
//! themselves tells whether recovery reads on from one to the other. Two servers that parted write segments whose names
//! follow each other, and whose records do not.

use crate::postgres::Lsn;

/// Nothing is known.
const UNKNOWN: u32 = 0;
/// Of the first record: nothing comes before it. Of the last one: none begins here. No record begins so close to a boundary.
const NONE: u32 = 1;

/// What a segment says of its two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Links {
    /// Where the record before the first one that begins in the segment begins (its `xl_prev`), and the first page's timeline.
    first: Link,
    /// Where the last record that begins in the segment begins, whole or not, and the last page's timeline.
    last: Link,
}

/// A record's beginning in units of 8 bytes, and a page's timeline; of both the low bits. A timeline of 0 is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Link {
    record: u32,
    timeline: u8,
}

/// What lies before a border, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lead {
    record: Option<u32>,
    timeline: u8,
}

impl Links {
    /// Of a segment of which nothing is known.
    pub const UNKNOWN: Self = {
        let unknown = Link { record: UNKNOWN, timeline: 0 };
        Self { first: unknown, last: unknown }
    };
    /// Bytes of [`Links::to_bytes`].
    pub const LEN: usize = 10;

    /// By the `xl_prev` of the first record that begins in a segment, where that is known, and by where the last one begins,
    /// `Some(None)` where none does; and by the timelines of the first and of the last page.
    pub fn new(first: Option<Lsn>, last: Option<Option<Lsn>>, (first_page, last_page): (u32, u32)) -> Self {
        let first = match first {
            None => UNKNOWN,
            Some(Lsn::INVALID) => NONE,
            Some(previous) => unit(previous),
        };
        let last = last.map_or(UNKNOWN, |last| last.map_or(NONE, unit));
        let link = |record, timeline: u32| Link { record, timeline: timeline.to_le_bytes()[0] };
        Self { first: link(first, first_page), last: link(last, last_page) }
    }

    /// The record and the timeline of the first end, then of the last; as numbers whose first byte is the highest.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (half, link) in bytes.chunks_mut(Self::LEN / 2).zip([self.first, self.last]) {
            half[..4].copy_from_slice(&link.record.to_be_bytes());
            half[4] = link.timeline;
        }
        bytes
    }

    /// What [`Links::to_bytes`] makes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        const fn link(bytes: [u8; Links::LEN], at: usize) -> Link {
            let record = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            Link { record: u32::from_be_bytes(record), timeline: bytes[at + 4] }
        }
        Self { first: link(bytes, 0), last: link(bytes, Self::LEN / 2) }
    }
}

impl Lead {
    /// Behind a segment that this leads to.
    #[must_use]
    pub fn through(self, links: Links) -> Self {
        let record = match links.last.record {
            UNKNOWN => None,
            NONE => self.record,
            record => Some(record),
        };
        Self { record, timeline: links.last.timeline }
    }

    /// Why recovery does not read on in a segment that begins at `start`; `None` if it does, as far as is known.
    pub fn breaks_at(self, links: Links, start: Lsn) -> Option<String> {
        if let Some(last) = self.record
            && links.first.record != UNKNOWN
            && links.first.record != last
        {
            let named = match links.first.record {
                NONE => "no record".to_owned(),
                record => format!("the record at {}", before(record, start)),
            };
            return Some(format!(
                "its first record follows {named}, and the last one before it begins at {}",
                before(last, start)
            ));
        }
        // A record's place may be the same by chance; recovery refuses pages of an older timeline as well.
        let (page, timeline) = (links.first.timeline, self.timeline);
        let is_older = page != 0 && timeline != 0 && page.wrapping_sub(timeline) > u8::MAX / 2;
        is_older.then(|| "its first page is of an older timeline than the last one before it".to_owned())
    }
}

/// The beginning of a record as a number: records begin at multiples of 8.
fn unit(record: Lsn) -> u32 {
    let [a, b, c, d, ..] = (record.get() / 8).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Where a record begins that lies before `start`.
fn before(record: u32, start: Lsn) -> Lsn {
    let units = start.get() / 8;
    let back = u32::try_from(units & u64::from(u32::MAX)).unwrap_or_default().wrapping_sub(record);
    Lsn::new(units.saturating_sub(u64::from(back)) * 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Lsn = Lsn::new(7 << 35 | 0x30_0000);

    fn links(first: u64, last: u64) -> Links {
        Links::new(Some(Lsn::new(first)), Some(Some(Lsn::new(last))), (1, 1))
    }

    #[test]
    fn a_segment_follows_where_its_first_record_names_the_last_one_before_it() {
        let (at, behind) = (START.get(), START.get() + 800);
        let lead = Lead::default().through(links(8, at - 800));
        assert_eq!(lead.breaks_at(links(at - 800, behind), START), None);
        let why = lead.breaks_at(links(at - 808, behind), START).unwrap();
        assert!(
            why.contains("the record at 38/2FFCD8, and the last one before it begins at 38/2FFCE0"),
            "{why}"
        );
        assert!(lead.breaks_at(links(0, behind), START).unwrap().contains("follows no record"));
        // In the 32 GiB before.
        let far = Lsn::new(7 << 35).get() - 8;
        assert!(lead.breaks_at(links(far, behind), START).unwrap().contains("the record at 37/FFFFFFF8"));
    }

    #[test]
    fn a_segment_in_which_no_record_begins_leads_on_from_the_one_before_it() {
        let at = START.get();
        let within = Links::new(None, Some(None), (1, 1));
        let lead = Lead::default().through(links(8, at - 800)).through(within);
        assert_eq!(lead.breaks_at(links(at - 800, at), START), None);
        assert!(lead.breaks_at(links(at - 808, at), START).is_some());
        // What is not known on either side breaks nothing.
        assert_eq!(Lead::default().through(within).breaks_at(links(at - 808, at), START), None);
        let broken = lead.through(Links::new(None, None, (1, 1)));
        assert_eq!(broken.breaks_at(links(at - 808, at), START), None);
        assert_eq!(lead.breaks_at(Links::UNKNOWN, START), None);
    }

    #[test]
    fn pages_of_an_older_timeline_do_not_follow() {
        let of = |pages| Links::new(Some(Lsn::new(8)), Some(Some(Lsn::new(8))), pages);
        let breaks =
            |before, behind| Lead::default().through(of((1, before))).breaks_at(of((behind, 9)), START);
        for (before, behind) in [(1, 1), (1, 2), (255, 257), (256, 3), (3, 256)] {
            assert_eq!(breaks(before, behind), None, "{before} {behind}");
        }
        assert!(breaks(2, 1).unwrap().contains("older timeline"));
        assert!(breaks(257, 255).is_some());
    }

    #[test]
    fn they_round_trip() {
        for links in [Links::UNKNOWN, links(0, 80), links(START.get() - 8, START.get() + 8)] {
            assert_eq!(Links::from_bytes(links.to_bytes()), links);
        }
    }
}
