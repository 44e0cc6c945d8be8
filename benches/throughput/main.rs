//! How fast bytes move through the rooms that every byte passes: `cargo bench`, or `cargo bench -- --quick`.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a benchmark that cannot go on fails"
)]

mod data;

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use walproof::format::{
    Inspect, PackName, PackReader, PackWriter, Summary, open_wal, page_digest_seed, seal_wal,
};
use walproof::postgres::{Lsn, SegmentName, SegmentSize, TimelineId, WalName, check_page, page_checksum};
use walproof::seal::{Decompressor, KeyRing, MasterKey, PageCompressor, scrub_object};
use walproof::wal::{SegmentChecker, SegmentContent, WalScanner};

const IDENTITY: &str = "bench/7";
const EXTENT: usize = 512 << 10;

struct Nothing;

impl Inspect for Nothing {
    fn feed(&mut self, _: &[u8]) -> walproof::error::Result<()> {
        Ok(())
    }

    fn finish(self, plain_len: u64) -> walproof::error::Result<Summary> {
        Ok(Summary::of_length(plain_len))
    }
}

fn keys() -> KeyRing {
    KeyRing::parse(&MasterKey::generate().expect("random numbers").to_text()).expect("a key")
}

fn size() -> SegmentSize {
    SegmentSize::new(data::SEGMENT).expect("a size")
}

fn name() -> SegmentName {
    SegmentName::from_number(TimelineId::FIRST, data::START / u64::from(data::SEGMENT), size())
}

fn group<'a>(criterion: &'a mut Criterion, name: &str, bytes: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group
}

/// A 16 MiB segment to a WAL object and back.
fn wal(criterion: &mut Criterion) {
    let (keys, segment, name) = (keys(), data::segment(), WalName::Segment(name()));
    let seal = |threads| {
        let source = &segment.as_slice();
        seal_wal(&keys, IDENTITY, &name, (1, threads), source, segment.len() as u64, Nothing).expect("seal")
    };
    let mut group = group(criterion, "wal", segment.len());
    for threads in [1, 2] {
        group.bench_function(format!("seal, threads: {threads}"), |bencher| bencher.iter(|| seal(threads)));
    }
    let sealed = seal(1).parts.concat();
    eprintln!("wal: {} bytes are stored as {}", segment.len(), sealed.len());
    group.bench_function("open", |bencher| {
        bencher.iter(|| open_wal(&keys, IDENTITY, &name, black_box(&sealed)).expect("open"));
    });
    group
        .bench_function("scrub", |bencher| bencher.iter(|| scrub_object(black_box(&sealed)).expect("sound")));
    group.finish();
}

/// What archiving looks at besides.
fn inspection(criterion: &mut Criterion) {
    let segment = data::segment();
    let mut group = group(criterion, "inspection", segment.len());
    group.bench_function("segment checker", |bencher| {
        bencher.iter(|| {
            let mut checker =
                SegmentChecker::new(name(), size(), data::SYSTEM_IDENTIFIER, SegmentContent::Full);
            checker.feed(black_box(&segment)).expect("a segment");
            checker.finish().expect("a whole segment")
        });
    });
    group.bench_function("scanner", |bencher| {
        bencher.iter(|| {
            let mut scanner = WalScanner::new(name().start(size()), size());
            scanner.feed(black_box(&segment));
            let found = scanner.finish();
            assert!(found.complete && found.commits > 1000);
            found
        });
    });
    group.finish();
}

/// What a backup does with every page, and a restore with every extent.
fn packs(criterion: &mut Criterion) {
    let keys = keys();
    let pack = PackName { backup: "20261122T130000Z-00000001".parse().expect("an id"), number: 0 };
    let mut pages = data::heap_pages((16 << 20) / data::PAGE);
    for (block, page) in (0..).zip(pages.chunks_mut(data::PAGE)) {
        let checksum = page_checksum(page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
    }
    let limit = u32::try_from(EXTENT).expect("small");
    let mut group = group(criterion, "pack", pages.len());
    group.bench_function("page checksum", |bencher| {
        bencher.iter(|| check_all(black_box(&pages)));
    });
    group.bench_function("page digest", |bencher| {
        let mut digests = Vec::new();
        bencher.iter(|| {
            digests.clear();
            page_digest_seed(7, black_box(&pages), &mut digests);
        });
    });
    let mut compressor = PageCompressor::new(1).expect("zstd");
    compressor.choose_for(&pages).expect("zstd");
    let write = |compressor: &mut PageCompressor| {
        let mut writer =
            PackWriter::new(&keys, IDENTITY, pack.clone(), limit, Vec::with_capacity(pages.len()))
                .expect("a pack");
        let (mut digests, mut frames) = (Vec::new(), Vec::new());
        for extent in pages.chunks(EXTENT) {
            digests.clear();
            page_digest_seed(7, extent, &mut digests);
            frames.push(writer.add(compressor, &mut extent.to_vec(), &digests).expect("seal"));
        }
        (writer.finish(compressor).expect("seal"), frames)
    };
    group.bench_function("check, digest and seal extents", |bencher| {
        bencher.iter(|| {
            check_all(&pages);
            write(&mut compressor)
        });
    });
    let (sealed, frames) = write(&mut compressor);
    eprintln!("pack: {} bytes are stored as {}", pages.len(), sealed.bytes.len());
    let reader = PackReader::new(&keys, IDENTITY, pack.clone(), &sealed.header).expect("a pack");
    let mut decompressor = Decompressor::new().expect("zstd");
    let mut out = Vec::new();
    group.bench_function("open extents", |bencher| {
        bencher.iter(|| {
            for place in &frames {
                let start = place.offset as usize;
                let stored = &sealed.bytes[start..start + place.stored_len as usize];
                out.clear();
                reader.open(&mut decompressor, place.frame.into(), stored, &mut out).expect("open");
            }
        });
    });
    group.finish();
}

fn check_all(pages: &[u8]) {
    for (block, page) in (0..).zip(pages.chunks(data::PAGE)) {
        assert_eq!(check_page(page, block, Lsn::new(1 << 60)), walproof::postgres::PageVerdict::Valid);
    }
}

criterion_group!(benches, wal, inspection, packs);
criterion_main!(benches);
