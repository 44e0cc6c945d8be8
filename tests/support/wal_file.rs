//! WAL segments with valid page headers and valid records.
//!
//! Every page holds one XLOG NOOP record that fills it (a first commit record if asked for one); the last page
//! ends in a SWITCH record, and zeros follow to the end of the segment, as in a finished segment after
//! `pg_switch_wal()`. Page header 24 bytes, 40 on the first page; record header 24 bytes, its CRC-32C at 20
//! over the payload and then the header before the CRC.

use super::Random;
use super::fabricate::{SYSTEM_IDENTIFIER, Version, put};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PAGE: usize = 8192;
const RECORD_HEADER: usize = 24;
/// From 1970 to 2000, where PostgreSQL's clock starts.
const POSTGRES_EPOCH: Duration = Duration::from_hours(24 * 10_957);

const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
const XLOG_NOOP: u8 = 0x20;
const XLOG_SWITCH: u8 = 0x40;
const XACT_COMMIT: u8 = 0x00;

/// A segment to be. Name and content are told apart on purpose: a test may make them contradict.
#[derive(Debug, Clone)]
pub struct WalFile {
    magic: u16,
    system_identifier: u64,
    timeline: u32,
    page_timeline: u32,
    segment: u64,
    segment_size: u32,
    pages: usize,
    seed: Option<u64>,
    commits: Vec<(usize, SystemTime)>,
    stale_from: Option<usize>,
    zeroed: bool,
}

impl WalFile {
    /// Segment number `segment` (0x1_0000_0000 / size of them in 4 GiB) of `timeline`, full of compressible WAL.
    #[track_caller]
    pub fn new(major: u32, system_identifier: u64, timeline: u32, segment: u64, segment_size: u32) -> Self {
        Self {
            magic: Version::of(major).wal_magic,
            system_identifier,
            timeline,
            page_timeline: timeline,
            segment,
            segment_size,
            pages: segment_size as usize / PAGE,
            seed: None,
            commits: Vec::new(),
            stale_from: None,
            zeroed: false,
        }
    }

    /// Only the first `pages` pages hold WAL, at least one; zeros follow.
    pub fn pages(mut self, pages: usize) -> Self {
        self.pages = pages.clamp(1, self.segment_size as usize / PAGE);
        self
    }

    /// Incompressible content; another seed is other content under the same name.
    pub fn random(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// A commit at `time` at the start of `page`.
    pub fn commit(mut self, page: usize, time: SystemTime) -> Self {
        self.commits.push((page, time));
        self
    }

    /// On another timeline, by its name and its pages.
    pub fn timeline(mut self, timeline: u32) -> Self {
        (self.timeline, self.page_timeline) = (timeline, timeline);
        self
    }

    /// The timeline in the page headers where it is not the name's, as in the first segment after a promotion.
    pub fn page_timeline(mut self, timeline: u32) -> Self {
        self.page_timeline = timeline;
        self
    }

    pub fn system_identifier(mut self, identifier: u64) -> Self {
        self.system_identifier = identifier;
        self
    }

    pub fn magic(mut self, magic: u16) -> Self {
        self.magic = magic;
        self
    }

    /// From `page` on, pages have the addresses of the segment whose file was recycled.
    pub fn stale_from(mut self, page: usize) -> Self {
        self.stale_from = Some(page);
        self
    }

    /// Nothing but zeros under a valid name.
    pub fn zeroed(mut self) -> Self {
        self.zeroed = true;
        self
    }

    /// The same kind of file one segment on.
    pub fn next(mut self) -> Self {
        self.segment += 1;
        self
    }

    /// `000000010000000000000001`
    pub fn name(&self) -> String {
        let per_xlogid = 0x1_0000_0000 / u64::from(self.segment_size);
        format!("{:08X}{:08X}{:08X}", self.timeline, self.segment / per_xlogid, self.segment % per_xlogid)
    }

    /// LSN of the first byte.
    pub fn start(&self) -> u64 {
        self.segment * u64::from(self.segment_size)
    }

    /// LSN behind the last record.
    pub fn end(&self) -> u64 {
        self.start() + (self.pages * PAGE) as u64
    }

    /// The whole segment.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; self.segment_size as usize];
        if self.zeroed {
            return file;
        }
        let mut random = self.seed.map(Random::new);
        // The rig's previous segment is shaped like this one: its last record is the SWITCH.
        let mut previous = self.start().saturating_sub(RECORD_HEADER as u64);
        for (number, page) in file.chunks_mut(PAGE).take(self.pages).enumerate() {
            self.fill(page, number, &mut previous, random.as_mut());
        }
        file
    }

    /// Write it as `dir/NAME`, owned by the account.
    #[track_caller]
    pub fn write_to(&self, dir: &Path) -> PathBuf {
        let path = dir.join(self.name());
        super::scratch::write_owned(&path, &self.bytes(), 0o600);
        path
    }

    fn fill(&self, page: &mut [u8], number: usize, previous: &mut u64, mut random: Option<&mut Random>) {
        let address = self.start() + (number * PAGE) as u64;
        let header = self.header(page, number, address);
        let mut records = Records { page, at: header, address, previous: *previous };
        if let Some((_, time)) = self.commits.iter().find(|(page, _)| *page == number) {
            records.add(RM_XACT, XACT_COMMIT, 1000 + number as u32, &timestamp(*time).to_le_bytes());
        }
        let reserve = if number + 1 == self.pages { RECORD_HEADER } else { 0 };
        let mut payload = vec![number as u8; PAGE - records.at - reserve - RECORD_HEADER - 5];
        if let Some(random) = &mut random {
            random.fill(&mut payload);
        }
        records.add(RM_XLOG, XLOG_NOOP, 0, &payload);
        if reserve > 0 {
            records.add(RM_XLOG, XLOG_SWITCH, 0, &[]);
        }
        *previous = records.previous;
    }

    fn header(&self, page: &mut [u8], number: usize, address: u64) -> usize {
        let stale = self.stale_from.is_some_and(|from| number >= from);
        let address = if stale { address.saturating_sub(8 * u64::from(self.segment_size)) } else { address };
        put(page, 0, self.magic.to_le_bytes());
        put(page, 4, self.page_timeline.to_le_bytes());
        put(page, 8, address.to_le_bytes());
        if number > 0 {
            return 24;
        }
        put(page, 2, 2_u16.to_le_bytes());
        put(page, 24, self.system_identifier.to_le_bytes());
        put(page, 32, self.segment_size.to_le_bytes());
        put(page, 36, (PAGE as u32).to_le_bytes());
        40
    }
}

impl Default for WalFile {
    /// The first segment of a cluster of PostgreSQL 15, as [`super::fabricate::ControlFile::new`] describes it.
    fn default() -> Self {
        Self::new(15, SYSTEM_IDENTIFIER, 1, 1, 16 * super::fabricate::MIB)
    }
}

struct Records<'a> {
    page: &'a mut [u8],
    at: usize,
    address: u64,
    previous: u64,
}

impl Records<'_> {
    fn add(&mut self, manager: u8, info: u8, transaction: u32, payload: &[u8]) {
        let mut record = vec![0; RECORD_HEADER];
        match payload.len() {
            0 => {}
            // Block ids 255 and 254: main data with a one-byte or a four-byte length.
            length @ 1..=255 => record.extend([255, length as u8]),
            length => {
                record.push(254);
                record.extend((length as u32).to_le_bytes());
            }
        }
        record.extend(payload);
        let length = record.len() as u32;
        put(&mut record, 0, length.to_le_bytes());
        put(&mut record, 4, transaction.to_le_bytes());
        put(&mut record, 8, self.previous.to_le_bytes());
        put(&mut record, 16, [info, manager]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[RECORD_HEADER..]), &record[..20]);
        put(&mut record, 20, crc.to_le_bytes());

        put(self.page, self.at, &record);
        self.previous = self.address + self.at as u64;
        self.at = (self.at + record.len()).next_multiple_of(8);
    }
}

fn timestamp(time: SystemTime) -> i64 {
    let since_1970 = time.duration_since(UNIX_EPOCH).expect("a time after 1970");
    let before_2000 = || -(POSTGRES_EPOCH.saturating_sub(since_1970).as_micros() as i64);
    since_1970.checked_sub(POSTGRES_EPOCH).map_or_else(before_2000, |time| time.as_micros() as i64)
}
