//! Where the pages of a region go: which stay where the base has them, and which are written. A pure function.
//!
//! A restore opens whole frames, and asks for them one by one. So that a backup after many others restores like a full one,
//! of no region more is opened than its pages and a quarter of them, and out of a bounded number of frames; what would
//! break that is written again.

/// Pages of a new frame.
pub(super) const FRAME_PAGES: usize = 64;
/// Frames for a region of a thousand pages: three times as many as it has when it is written whole.
const MOST_FRAMES: usize = 48;
const FRAMES_FOR: usize = 1024;
const FEWEST_FRAMES: usize = 3;
/// Of so many pages of a region one more may be opened in vain. In a simulation of hundreds of backups, each with a tenth of the
/// pages changed, 1.3 pages are written again for each that changed; with twice as many dead ones 0.9, and a restore opens
/// a tenth more.
const DEAD_PART: usize = 4;

/// A page of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OldPage {
    /// Which of the region's old frames it lies in.
    pub(super) frame: usize,
    /// Which page of that frame it is.
    pub(super) page: u32,
    pub(super) digest: u64,
}

/// A frame that pages of the base lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OldFrame {
    /// Its pages, those that other files or nobody uses, too.
    pub(super) pages: usize,
    /// Its pack is there and may be used.
    pub(super) usable: bool,
}

/// Pages that follow each other in the file, and in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) frame: Frame,
    /// The first of them in the frame.
    pub(super) first: u32,
    pub(super) pages: u32,
}

/// Where a run lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// The old frame of this number.
    Old(usize),
    /// The new one of this number.
    New(usize),
}

/// What becomes of the pages of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Placement {
    /// Frames to write, each with the numbers of its pages, ascending.
    pub(super) frames: Vec<Vec<usize>>,
    /// All pages, in order.
    pub(super) runs: Vec<Run>,
    /// Pages that are as in the base and yet written.
    pub(super) rewritten: usize,
}

/// Place the pages with the digests `now`. `old` has the base's page in the place of each, or fewer, or more; a last page
/// that is shorter than a page in one of both must not have the other's digest.
pub(super) fn place(now: &[u64], old: &[OldPage], frames: &[OldFrame]) -> Placement {
    let mut source: Vec<Option<OldPage>> = vec![None; now.len()];
    let mut live = vec![0; frames.len()];
    let mut same = 0;
    for ((source, digest), page) in source.iter_mut().zip(now).zip(old) {
        if *digest == page.digest {
            same += 1;
            if frames[page.frame].usable {
                live[page.frame] += 1;
                *source = Some(*page);
            }
        }
    }
    let kept = keep(now.len(), &live, frames);
    for source in &mut source {
        *source = source.filter(|page| kept[page.frame]);
    }
    let written: Vec<usize> = (0..now.len()).filter(|page| source[*page].is_none()).collect();
    let reused = now.len() - written.len();
    // Frames of about the same length, and no more than it takes.
    let count = written.len().div_ceil(FRAME_PAGES).max(1);
    let each = written.len().div_ceil(count).max(1);
    let mut placement = Placement {
        frames: written.chunks(each).map(<[usize]>::to_vec).collect(),
        runs: Vec::new(),
        rewritten: same - reused,
    };
    let mut new = 0;
    for source in &source {
        if let Some(page) = source {
            placement.add(Frame::Old(page.frame), page.page);
        } else {
            placement.add(Frame::New(new / each), u32::try_from(new % each).unwrap_or(u32::MAX));
            new += 1;
        }
    }
    placement
}

impl Placement {
    fn add(&mut self, frame: Frame, page: u32) {
        match self.runs.last_mut() {
            Some(run) if run.frame == frame && run.first + run.pages == page => run.pages += 1,
            _ => self.runs.push(Run { frame, first: page, pages: 1 }),
        }
    }
}

/// Which old frames are kept, of which so many pages are `live`.
fn keep(pages: usize, live: &[usize], frames: &[OldFrame]) -> Vec<bool> {
    let mut kept: Vec<bool> =
        live.iter().zip(frames).map(|(live, frame)| *live > 0 && 2 * live >= frame.pages).collect();
    let sum = |kept: &[bool], of: &dyn Fn(usize) -> usize| -> usize {
        kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(frame, _)| of(frame)).sum()
    };
    let mut written = pages - sum(&kept, &|frame| live[frame]);
    // Those with the largest dead part first.
    let mut opened = written + sum(&kept, &|frame| frames[frame].pages);
    let mut order: Vec<usize> = (0..frames.len()).filter(|frame| kept[*frame]).collect();
    order.sort_by_key(|frame| (live[*frame] << 16) / frames[*frame].pages.max(1));
    for frame in order.drain(..) {
        if opened <= pages + pages / DEAD_PART {
            break;
        }
        kept[frame] = false;
        written += live[frame];
        opened -= frames[frame].pages - live[frame];
    }
    // Those from which least is used first: they cost least.
    let most = (pages * MOST_FRAMES / FRAMES_FOR).max(FEWEST_FRAMES);
    let mut count = sum(&kept, &|_| 1);
    order.extend((0..frames.len()).filter(|frame| kept[*frame]));
    order.sort_by_key(|frame| live[*frame]);
    for frame in order {
        if count + written.div_ceil(FRAME_PAGES) <= most {
            break;
        }
        kept[frame] = false;
        written += live[frame];
        count -= 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A generator whose seed is printed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % end.max(1)
        }
    }

    /// A region as a backup has it: frames with their pages (digests stand for content), and where each page lies.
    #[derive(Default)]
    struct Region {
        frames: Vec<Vec<u64>>,
        places: Vec<(usize, u32)>,
    }

    impl Region {
        fn content(&self) -> Vec<u64> {
            self.places.iter().map(|(frame, page)| self.frames[*frame][*page as usize]).collect()
        }

        /// The next backup, when the pages are `now`: the same frames and new ones, and what was written.
        fn next(&mut self, now: &[u64], usable: impl Fn(usize) -> bool) -> Placement {
            let old: Vec<OldPage> = self
                .places
                .iter()
                .map(|(frame, page)| OldPage {
                    frame: *frame,
                    page: *page,
                    digest: self.frames[*frame][*page as usize],
                })
                .collect();
            let frames: Vec<OldFrame> = self
                .frames
                .iter()
                .enumerate()
                .map(|(number, pages)| OldFrame { pages: pages.len(), usable: usable(number) })
                .collect();
            let placement = place(now, &old, &frames);
            let first_new = self.frames.len();
            self.frames.extend(
                placement.frames.iter().map(|pages| pages.iter().map(|page| now[*page]).collect::<Vec<_>>()),
            );
            self.places.clear();
            for run in &placement.runs {
                let frame = match run.frame {
                    Frame::Old(frame) => {
                        assert!(usable(frame));
                        frame
                    }
                    Frame::New(frame) => first_new + frame,
                };
                self.places.extend((run.first..run.first + run.pages).map(|page| (frame, page)));
            }
            placement
        }

        /// (pages opened, frames) of a restore.
        fn cost(&self) -> (usize, usize) {
            let used: BTreeSet<usize> = self.places.iter().map(|(frame, _)| *frame).collect();
            (used.iter().map(|frame| self.frames[*frame].len()).sum(), used.len())
        }
    }

    #[test]
    fn what_is_placed_is_what_there_is_now_and_the_bounds_hold() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let most = [1, 5, 70, 1024][random.below(4)];
            let pages = 1 + random.below(most);
            let mut region = Region::default();
            let mut now: Vec<u64> = (0..pages as u64).collect();
            let mut fresh = pages as u64;
            region.next(&now, |_| true);
            for _ in 0..12 {
                match random.below(8) {
                    0 => now.truncate(1 + random.below(now.len())),
                    1 => {
                        let grown = (now.len() + random.below(100)).min(1024);
                        while now.len() < grown {
                            now.push(fresh);
                            fresh += 1;
                        }
                    }
                    2 => {
                        let (begin, length) = (random.below(now.len()), random.below(now.len()));
                        for page in now.iter_mut().skip(begin).take(length) {
                            *page = fresh;
                            fresh += 1;
                        }
                    }
                    _ => {
                        for _ in 0..random.below(now.len() / 8 + 2) {
                            let page = random.below(now.len());
                            now[page] = fresh;
                            fresh += 1;
                        }
                    }
                }
                // A pack may be lost.
                let lost = if random.below(6) == 0 { random.below(region.frames.len()) } else { usize::MAX };
                region.next(&now, |frame| frame != lost);
                assert_eq!(region.content(), now, "seed {seed}");
                let (opened, frames) = region.cost();
                assert!(4 * opened <= 5 * now.len(), "seed {seed}: {opened} of {}", now.len());
                assert!(frames <= (now.len() * 48 / 1024).max(3), "seed {seed}: {frames} for {}", now.len());
            }
        }
    }

    #[test]
    fn what_did_not_change_costs_nothing_and_what_changed_its_pages() {
        let mut region = Region::default();
        let mut now: Vec<u64> = (0..1024).collect();
        assert_eq!(region.next(&now, |_| true).frames.len(), 16);
        let placement = region.next(&now, |_| true);
        assert_eq!((placement.frames.len(), placement.runs.len(), placement.rewritten), (0, 16, 0));
        for page in [3, 70, 71, 1000] {
            now[page] += 5000;
        }
        let placement = region.next(&now, |_| true);
        assert_eq!((placement.frames, placement.rewritten), (vec![vec![3, 70, 71, 1000]], 0));
    }

    #[test]
    fn a_frame_that_is_mostly_dead_is_written_again() {
        let mut region = Region::default();
        let mut now: Vec<u64> = (0..256).collect();
        region.next(&now, |_| true);
        now[..32].iter_mut().for_each(|page| *page += 5000);
        let placement = region.next(&now, |_| true);
        assert_eq!((placement.rewritten, placement.frames.concat().len()), (0, 32));
        now[32] += 5000;
        let placement = region.next(&now, |_| true);
        assert_eq!((placement.rewritten, placement.frames.concat().len()), (31, 32));
    }

    #[test]
    fn after_hundreds_of_backups_little_is_written_beside_what_changed() {
        let mut region = Region::default();
        let mut random = Random(7);
        let mut now: Vec<u64> = (0..1024).collect();
        region.next(&now, |_| true);
        let (mut changed, mut rewritten) = (0, 0);
        for round in 1..=300_u64 {
            for page in 0..30_u64 {
                now[random.below(1024)] = round * 10_000 + page;
            }
            let placement = region.next(&now, |_| true);
            rewritten += placement.rewritten;
            changed += placement.frames.concat().len() - placement.rewritten;
        }
        assert!(rewritten < 3 * changed, "{rewritten} rewritten, {changed} changed");
    }
}
