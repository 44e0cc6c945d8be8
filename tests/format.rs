//! A second reader and writer of the format, made from FORMAT.md alone; it parses the vectors there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use walproof::format::{
    FileTable, Identity, Manifest, PackDigests, PackList, PackName, PackReader, PackUse, Summary,
    TailPieceName, WalDigest, digest_sum, open_wal, page_digest_seed,
};
use walproof::postgres::{Lsn, PgTime, Verbatim, WalName};
use walproof::repository::{BackupAttempt, ExpiryRecord, Hold, Namespace};
use walproof::seal::{
    Cipher, Compression, Context, Decompressor, Header, KeyId, KeyRing, MasterKey, ObjectKind, PageFilter,
    open_object, scrub_object, seal_object,
};
use walproof::store::{Location, Policy, Store};
use walproof::wal::{Links, RestorePoint};

const FORMAT: &str = include_str!("../src/format/FORMAT.md");
const KEY_FILE: &str = "walproof-key-1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const REPOSITORY: &str = "main/7420000000000000007";
const HISTORY: &str = "00000002.history";
const HISTORY_TEXT: &[u8] = b"1\t0/2800000\tx\n";
const BACKUP: &str = "20261122T130000Z-00000001";
const PACK: &str = "pack 20261122T130000Z-00000001/00000002";
const PIECE: &str = "watch/tail/000000010000000000000003/0000000711223344-00000000-00000020";
const LAST: u8 = 1;
const RAW: u8 = 2;

/// The block of FORMAT.md that begins with this fence.
fn block(fence: &str) -> &'static str {
    let begin = format!("\n```{fence}\n");
    let mut found = FORMAT.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = found.next().unwrap_or_else(|| panic!("FORMAT.md has no block {fence}"));
    assert!(found.next().is_none(), "FORMAT.md has two blocks {fence}");
    block
}

fn vector(name: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        block(&format!("text vector {name}")).bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Hex, 32 bytes a line.
fn lines(bytes: &[u8]) -> String {
    let digits =
        |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]));
    bytes.chunks(32).flat_map(|line| line.iter().flat_map(digits).chain(['\n'])).collect()
}

/// The bytes that this reader and writer makes are those in FORMAT.md.
fn assert_vector(name: &str, bytes: &[u8]) {
    assert!(vector(name) == bytes, "vector {name} should be\n{}", lines(bytes));
}

/// A short vector, as it is written.
fn vector_line(name: &str) -> String {
    lines(&vector(name)).trim().to_owned()
}

fn counting(from: u8) -> [u8; 32] {
    std::array::from_fn(|at| from + u8::try_from(at).unwrap())
}

fn keys() -> KeyRing {
    assert!(FORMAT.contains(KEY_FILE));
    KeyRing::parse(KEY_FILE).unwrap()
}

fn identity() -> Identity {
    serde_json::from_str(block("json identity")).unwrap()
}

fn key_id(key: &[u8; 32]) -> [u8; 8] {
    *blake3::derive_key("walproof 1 key id", key).first_chunk().unwrap()
}

fn data_key(key: &[u8; 32], salt: &[u8]) -> [u8; 32] {
    let mut data_key = [0; 32];
    hkdf::Hkdf::<sha2::Sha256>::new(Some(salt), key).expand(b"walproof 1 object key", &mut data_key).unwrap();
    data_key
}

fn context_digest(header: &[u8], name: &str) -> [u8; 32] {
    let mut bytes = header.to_vec();
    for text in [REPOSITORY, name] {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    blake3::derive_key("walproof 1 object context", &bytes)
}

fn header(kind: u8, encrypted: bool, frame_limit: u32) -> Vec<u8> {
    let mut bytes = b"WALPROOF".to_vec();
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend([kind, u8::from(encrypted), 1, 0, 0, 0]);
    bytes.extend(if encrypted { key_id(&counting(0)) } else { [0; 8] });
    bytes.extend(counting(0x20));
    bytes.extend(frame_limit.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Header and place of an object, as this reader and writer knows it.
struct Object {
    encrypted: bool,
    context: [u8; 32],
    key: Aes256Gcm,
}

impl Object {
    fn new(header: &[u8], name: &str) -> Self {
        Self {
            encrypted: header[11] == 1,
            context: context_digest(header, name),
            key: Aes256Gcm::new(&data_key(&counting(0), &header[24..56]).into()),
        }
    }

    fn associated(&self, number: u64, frame_header: &[u8]) -> Vec<u8> {
        [&self.context[..], &number.to_le_bytes(), frame_header].concat()
    }

    fn nonce(number: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        nonce
    }

    fn unkeyed_tag(associated: &[u8], content: &[u8]) -> [u8; 16] {
        *blake3::hash(&[associated, content].concat()).as_bytes().first_chunk().unwrap()
    }

    /// A frame with this content, already compressed unless raw.
    fn seal(&self, number: u64, flags: u8, plain_len: usize, content: &[u8]) -> Vec<u8> {
        self.seal_filtered(number, (flags, 0), plain_len, content)
    }

    /// The same, of pages that this filter was applied to.
    fn seal_filtered(
        &self,
        number: u64,
        (flags, filter): (u8, u8),
        plain_len: usize,
        content: &[u8],
    ) -> Vec<u8> {
        let mut frame = u32::try_from(content.len() + 16).unwrap().to_le_bytes().to_vec();
        frame.extend(u32::try_from(plain_len).unwrap().to_le_bytes());
        frame.extend([flags, filter, 0, 0]);
        let associated = self.associated(number, &frame);
        let body = if self.encrypted {
            let payload = Payload { msg: content, aad: &associated };
            self.key.encrypt(&Nonce::from(Self::nonce(number)), payload).unwrap()
        } else {
            [content, &Self::unkeyed_tag(&associated, content)].concat()
        };
        let crc = crc32fast::hash(&[&frame[..], &body].concat());
        frame.extend(crc.to_le_bytes());
        frame.extend(body);
        frame
    }

    /// The plaintext of the frame that `bytes` begins with, whether it is the last one, and what follows.
    fn open<'a>(&self, number: u64, bytes: &'a [u8]) -> (Vec<u8>, bool, &'a [u8]) {
        let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        let (body, rest) = bytes[16..].split_at(word(0) as usize);
        assert_eq!(crc32fast::hash(&[&bytes[..12], body].concat()), word(12));
        let associated = self.associated(number, &bytes[..12]);
        let content = if self.encrypted {
            let payload = Payload { msg: body, aad: &associated };
            self.key.decrypt(&Nonce::from(Self::nonce(number)), payload).unwrap()
        } else {
            let (content, tag) = body.split_at(body.len() - 16);
            assert_eq!(Self::unkeyed_tag(&associated, content), tag);
            content.to_vec()
        };
        let plain_len = word(4) as usize;
        let mut plain =
            if bytes[8] & RAW != 0 { content } else { zstd::bulk::decompress(&content, plain_len).unwrap() };
        assert_eq!(plain.len(), plain_len);
        if bytes[9] != 0 {
            plain.chunks_exact_mut(8192).for_each(|page| undo_filter(page, bytes[9].into()));
        }
        (plain, bytes[8] & LAST != 0, rest)
    }
}

/// The page filter, undone.
fn undo_filter(page: &mut [u8], n: usize) {
    let half = |page: &[u8], at: usize| usize::from(u16::from_le_bytes(*page[at..].first_chunk().unwrap()));
    let lower = half(page, 12);
    if half(page, 18) != 8196 || !(24..=8192).contains(&lower) || (lower - 24) % 4 != 0 {
        return;
    }
    let mut before = half(page, 16);
    let mut looked_at: Option<usize> = None;
    for at in (24..lower).step_by(4) {
        let pointer = u32::from_le_bytes(*page[at..].first_chunk().unwrap());
        let length = (pointer >> 17) as usize;
        let offset = (before + (1 << 16) - length.div_ceil(8) * 8 - (pointer & 0x7FFF) as usize) % (1 << 15);
        let pointer = pointer & !0x7FFF | u32::try_from(offset).unwrap();
        page[at..at + 4].copy_from_slice(&pointer.to_le_bytes());
        if length != 0 {
            before = offset;
        }
    }
    for at in (24..lower).step_by(4) {
        let pointer = u32::from_le_bytes(*page[at..].first_chunk().unwrap());
        let (offset, length) = ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize);
        if length < n || offset < lower || offset + length > 8192 {
            continue;
        }
        if let Some(other) = looked_at.filter(|other| other.abs_diff(offset) >= n) {
            for byte in 0..n {
                page[offset + byte] = page[offset + byte].wrapping_add(page[other + byte]);
            }
        }
        looked_at = Some(offset);
    }
}

/// All frames of an object.
fn open_all(bytes: &[u8], name: &str) -> Vec<Vec<u8>> {
    let object = Object::new(&bytes[..64], name);
    let (mut frames, mut rest) = (Vec::new(), &bytes[64..]);
    loop {
        let (plain, last, next) = object.open(frames.len() as u64, rest);
        frames.push(plain);
        rest = next;
        assert_eq!(last, rest.is_empty());
        if last {
            return frames;
        }
    }
}

/// An object of raw frames.
fn seal_all(header: &[u8], name: &str, frames: &[&[u8]]) -> Vec<u8> {
    let object = Object::new(header, name);
    let mut bytes = header.to_vec();
    for (number, plain) in frames.iter().enumerate() {
        let flags = if number + 1 == frames.len() { RAW | LAST } else { RAW };
        bytes.extend(object.seal(number as u64, flags, plain.len(), plain));
    }
    bytes
}

#[test]
fn keys_and_what_is_derived_from_them() {
    let id = key_id(&counting(0));
    assert_vector("key-id", &id);
    assert_eq!(keys().sealing().unwrap().id().to_bytes(), id);
    assert_eq!(*MasterKey::from_bytes(counting(0).into()).to_text(), KEY_FILE);
    assert_vector("data-key", &data_key(&counting(0), &counting(0x20)));
    assert_vector("context-digest", &context_digest(&header(2, true, 1 << 20), HISTORY));
}

#[test]
fn the_header_has_its_fields_in_place() {
    assert_vector("wal-header", &header(2, true, 1 << 20));
    let parsed = Header::parse(&vector("wal-header")).unwrap();
    let expected = Header {
        kind: ObjectKind::Wal,
        cipher: Cipher::Aes256Gcm,
        compression: Compression::Zstd,
        key_id: KeyId::from_bytes(key_id(&counting(0))),
        salt: counting(0x20),
        frame_limit: 1 << 20,
    };
    assert_eq!(parsed, expected);
}

#[test]
fn a_wal_object_opens_with_and_without_encryption() {
    let summary = Summary::of_length(HISTORY_TEXT.len() as u64);
    let mut bytes = vec![0; 62];
    bytes[0] = u8::try_from(HISTORY_TEXT.len()).unwrap();
    for time in [16, 24] {
        bytes[time..time + 8].copy_from_slice(&i64::MIN.to_le_bytes());
    }
    assert_vector("history-summary", &bytes);
    let name: WalName = HISTORY.parse().unwrap();
    for (vector_name, keys, encrypted) in
        [("wal-object", keys(), true), ("wal-object-unencrypted", KeyRing::unencrypted(), false)]
    {
        let object = seal_all(&header(2, encrypted, 1 << 20), HISTORY, &[&bytes, HISTORY_TEXT]);
        assert_vector(vector_name, &object);
        let opened = open_wal(&keys, REPOSITORY, &name, &vector(vector_name)).unwrap();
        assert_eq!(opened, (summary.clone(), HISTORY_TEXT.to_vec()));
        scrub_object(&object).unwrap();
    }
}

#[test]
fn wal_digests_are_keyed_by_the_identity() {
    let keyed = blake3::keyed_hash(&counting(0x40), blake3::hash(HISTORY_TEXT).as_bytes());
    assert_vector("wal-digest", &keyed.as_bytes()[..16]);
    let digest = identity().wal_digest(blake3::hash(HISTORY_TEXT).as_bytes()).unwrap();
    let without = digest.linked(Links::UNKNOWN).to_string();
    assert_eq!(without, vector_line("wal-digest"));
    // Of a segment: the links behind it, as its summary has them.
    let of_segment = format!("{without}{}", vector_line("segment-links"));
    assert_eq!(digest.linked(links()).to_string(), of_segment);
    assert_eq!(of_segment.parse::<WalDigest>().unwrap(), digest.linked(links()));
    for wrong in [&of_segment[..50], &format!("{without}{:020}", 0), &format!("{of_segment}00"), "65d8"] {
        wrong.parse::<WalDigest>().unwrap_err();
    }
}

/// Of a segment of timeline 2 from 7/3000000 on, which begins on timeline 1.
fn links() -> Links {
    let lsn = |low: u64| Some(Lsn::new(7 << 32 | low));
    Links::new(lsn(0x02FF_FFD8), Some(lsn(0x03FF_FED0)), (1, 2))
}

#[test]
fn links_are_parts_of_positions_and_timelines() {
    let half = |record: u64, timeline: u8| format!("{:08x}{timeline:02x}", record / 8 % (1 << 32));
    let text = half(0x7_02FF_FFD8, 1) + &half(0x7_03FF_FED0, 2);
    assert_eq!(vector_line("segment-links"), text);
    let hex = |bytes: [u8; 10]| lines(&bytes).trim().to_owned();
    assert_eq!(hex(links().to_bytes()), text);
    // Nothing before the first record, no record that begins; and what is not known.
    assert_eq!(hex(Links::new(Some(Lsn::INVALID), Some(None), (1, 1)).to_bytes()), "00000001010000000101");
    assert_eq!(hex(Links::new(None, None, (0x0102, 0x0103)).to_bytes()), "00000000020000000003");
}

#[test]
fn a_summary_tells_of_its_segment() {
    let time = |text: &str| text.parse::<PgTime>().unwrap();
    let times = (time("2026-11-22T12:00:00Z"), time("2026-11-22T13:00:00.5Z"));
    let mut bytes = Vec::new();
    bytes.extend(16_777_216_u64.to_le_bytes());
    bytes.extend(0x03FF_FF00_u64.to_le_bytes());
    bytes.extend(1_795_348_800_000_000_i64.to_le_bytes());
    bytes.extend(1_795_352_400_500_000_i64.to_le_bytes());
    for word in [3_u32, 700, 702, 1, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(links().to_bytes());
    bytes.extend(1_795_350_600_000_000_i64.to_le_bytes());
    bytes.extend(0x0300_0100_u64.to_le_bytes());
    bytes.push(13);
    bytes.extend(b"before deploy");
    bytes.push(7);
    bytes.extend(b"db1:/pg");
    assert_vector("segment-summary", &bytes);
    let lsn = Lsn::new(0x0300_0100);
    let expected = Summary {
        plain_len: 1 << 24,
        end: Lsn::new(0x03FF_FF00),
        times: Some(times),
        commits: 3,
        xids: Some((700, 702)),
        complete: true,
        restore_points: vec![RestorePoint {
            name: "before deploy".into(),
            time: time("2026-11-22T12:30:00Z"),
            lsn,
        }],
        links: links(),
        writer: "db1:/pg".into(),
    };
    assert_eq!(Summary::parse(&vector("segment-summary")).unwrap(), expected);
    assert_eq!(expected.to_bytes(), bytes);
}

/// The page of the vector, and what the filter 28 makes of it.
fn page() -> [Vec<u8>; 2] {
    let mut page = vec![0; 8192];
    for (at, half) in [(12, 36_u16), (16, 8192), (18, 8196)] {
        page[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
    let mut filtered = page.clone();
    for (item, at) in [8152_u32, 8112, 8072].into_iter().enumerate() {
        let pointer = 24 + 4 * item;
        page[pointer..pointer + 4].copy_from_slice(&(40 << 17 | 1 << 15 | at).to_le_bytes());
        // As each lies where it should.
        filtered[pointer..pointer + 4].copy_from_slice(&(40_u32 << 17 | 1 << 15).to_le_bytes());
        for byte in 0..40 {
            let at = at as usize + byte;
            page[at] = u8::try_from(10 * item + byte).unwrap();
            filtered[at] = if item > 0 && byte < 28 { 10 } else { page[at] };
        }
    }
    [page, filtered]
}

#[test]
fn the_page_filter_is_undone() {
    let [page, filtered] = page();
    assert_vector("page-filtered", &[&filtered[..36], &filtered[8072..]].concat());
    let mut undone = filtered.clone();
    undo_filter(&mut undone, 28);
    assert!(undone == page);
    let filter = PageFilter::from_byte(28).unwrap();
    let mut ours = page.clone();
    filter.apply(&mut ours);
    assert!(ours == filtered);
    filter.undo(&mut ours);
    assert!(ours == page);
    let known: Vec<u8> = (0..=u8::MAX).filter(|byte| PageFilter::from_byte(*byte).is_some()).collect();
    assert_eq!(known, [0, 8, 16, 20, 24, 28, 32, 40]);
    assert!(FORMAT.contains("`N`: 0, 8, 16, 20, 24, 28, 32 or 40;"));
}

/// Another page than the vector's: line pointers and items at odds, as a page that was read torn may have them.
#[test]
fn both_filters_undo_pages_of_any_content() {
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40).to_le_bytes()[0]
    };
    for round in 0..400 {
        let mut page: Vec<u8> = (0..8192).map(|_| noise()).collect();
        let lower = 24 + 4 * (round * 5 % 2043);
        page[12..14].copy_from_slice(&u16::try_from(lower).unwrap().to_le_bytes());
        page[18..20].copy_from_slice(&8196_u16.to_le_bytes());
        for n in [8, 16, 20, 24, 28, 32, 40] {
            let mut filtered = page.clone();
            PageFilter::from_byte(n).unwrap().apply(&mut filtered);
            undo_filter(&mut filtered, n.into());
            assert!(filtered == page, "{round} {n}");
        }
    }
}

/// Of the pages of the vector's pack.
fn digests() -> [u64; 3] {
    let seed = blake3::derive_key("walproof 1 page digest seed", &counting(0x40));
    let seed = u64::from_le_bytes(*seed.first_chunk().unwrap());
    assert_eq!(identity().page_seed().unwrap(), seed);
    extents().map(|bytes| xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, seed))
}

fn pack_digests() -> Vec<u8> {
    let mut bytes = 1_u32.to_le_bytes().repeat(3);
    bytes.extend(digests().iter().flat_map(|digest| digest.to_le_bytes()));
    bytes
}

fn extents() -> [Vec<u8>; 3] {
    [(0..100).collect(), vec![0; 8192], page()[0].clone()]
}

#[test]
fn extents_of_a_pack_open_alone() {
    let [first, second, third] = extents();
    let pack = vector("pack");
    // What Zstandard makes of an extent is its own business; everything around it is not.
    let object = Object::new(&header(3, true, 8192), PACK);
    let content = zstd::bulk::compress(&second, 1).unwrap();
    let made = [
        header(3, true, 8192),
        object.seal(0, RAW, 100, &first),
        object.seal(1, 0, 8192, &content),
        object.seal_filtered(2, (0, 28), 8192, &zstd::bulk::compress(&page()[1], 1).unwrap()),
        object.seal(3, RAW | LAST, pack_digests().len(), &pack_digests()),
    ]
    .concat();
    assert!(pack.starts_with(&made[..64]), "vector pack should be like\n{}", lines(&made));
    assert!(open_all(&pack, PACK) == [first.clone(), second.clone(), third.clone(), pack_digests()]);
    scrub_object(&pack).unwrap();

    let name = PackName { backup: BACKUP.parse().unwrap(), number: 2 };
    let reader = PackReader::new(&keys(), REPOSITORY, name, &pack[..64]).unwrap();
    let table = FileTable::parse(&vector("file-table")).unwrap();
    for (file, expected) in table.files.iter().zip([second, first]) {
        let extent = file.extents[0];
        let start = extent.offset as usize;
        let stored = &pack[start..start + extent.stored_len as usize];
        let mut plain = Vec::new();
        reader.open(&mut Decompressor::new().unwrap(), extent.frame.into(), stored, &mut plain).unwrap();
        assert_eq!(extent.of(&plain).unwrap(), expected, "{}", file.path);
    }
    // The third one, which no file of the table has: filtered.
    let length = |at: usize| 16 + u32::from_le_bytes(*pack[at..].first_chunk().unwrap()) as usize;
    let start = (0..2).fold(64, |at, _| at + length(at));
    let mut plain = Vec::new();
    let stored = &pack[start..start + length(start)];
    reader.open(&mut Decompressor::new().unwrap(), 2, stored, &mut plain).unwrap();
    assert!(plain == third);
}

#[tokio::test]
async fn a_piece_of_a_tail_lies_under_its_key() {
    assert!(FORMAT.contains(PIECE));
    let plain: Vec<u8> = (0..32).collect();
    assert_vector("tail-piece", &seal_all(&header(8, true, 1 << 20), PIECE, &[&plain]));
    let store = Store::open(&Location::Memory, Policy::default()).unwrap();
    let namespace = Namespace::new(store.clone(), String::new(), "main".parse().unwrap(), keys(), 1);
    let context = Context { kind: ObjectKind::Identity, identity: REPOSITORY, name: "identity" };
    let sealed = seal_object(&keys(), context, 1, block("json identity").as_bytes()).unwrap();
    let repository = namespace.open_sealed_identity(7_420_000_000_000_000_007, &sealed).unwrap();

    let generation = "0000000711223344".parse().unwrap();
    let segment = "000000010000000000000003".parse().unwrap();
    let name = TailPieceName { segment, generation, start: 0, end: 32 };
    let key = format!("{REPOSITORY}/{PIECE}");
    store.put(&key, vec![vector("tail-piece").into()]).await.unwrap();
    assert_eq!(repository.get_tail_piece(&name).await.unwrap(), plain);
    repository.put_tail_piece(&name, &plain).await.unwrap();
    assert_eq!(open_all(&store.get(&key).await.unwrap(), PIECE).concat(), plain);
    let listed = repository.list_tail_pieces(Some(&segment)).await.unwrap();
    assert_eq!(listed.iter().map(|piece| piece.name).collect::<Vec<_>>(), [name]);
}

fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    bytes.extend(text);
}

#[test]
fn a_pack_list_counts_each_frame_once() {
    let pack = vector("pack");
    let frame = |at: usize| u32::from_le_bytes(*pack[at..].first_chunk().unwrap()) + 16;
    let first = frame(64);
    let live_bytes = first + frame(64 + first as usize);
    let mut bytes = 1_u32.to_le_bytes().to_vec();
    text(&mut bytes, BACKUP.as_bytes());
    let all = u32::try_from(pack.len()).unwrap();
    for word in [1, 2, all, live_bytes] {
        bytes.extend(word.to_le_bytes());
    }
    assert_vector("pack-list", &bytes);
    let name = PackName { backup: BACKUP.parse().unwrap(), number: 2 };
    let list = PackList(vec![PackUse { name, bytes: all, live_bytes }]);
    assert_eq!(PackList::parse(&bytes).unwrap(), list);
    assert_eq!(list.to_bytes(), bytes);
}

#[test]
fn verbatim_bytes_have_one_text() {
    let path = Verbatim::from(b"log/\xff".to_vec());
    let json = serde_json::to_string(&path).unwrap();
    assert!(FORMAT.contains(&format!("`{json}`")), "{json}");
    assert_eq!(serde_json::from_str::<Verbatim>(&json).unwrap(), path);
}

fn leb128(number: i128) -> Vec<u8> {
    let digits = (1..19_i32).find(|digits| number >> (7 * digits) == 0).unwrap();
    let digit =
        |at: i32| u8::try_from(number >> (7 * at) & 127).unwrap() | if at + 1 < digits { 128 } else { 0 };
    (0..digits).map(digit).collect()
}

#[test]
fn a_part_of_a_file_table_and_its_digests() {
    let pack = vector("pack");
    let stored = |at: usize| u32::from_le_bytes(*pack[at..].first_chunk().unwrap()) + 16;
    let mut frames = vec![(64, stored(64))];
    for _ in 0..3 {
        let (offset, bytes) = frames[frames.len() - 1];
        frames.push((offset + bytes, stored((offset + bytes) as usize)));
    }
    let words =
        |out: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|word| out.extend(word.to_le_bytes()));
    let mut bytes = Vec::new();
    words(&mut bytes, &[1]);
    text(&mut bytes, BACKUP.as_bytes());
    words(&mut bytes, &[2]);
    bytes.extend(header(3, true, 8192));
    words(&mut bytes, &[3, frames[3].0, frames[3].1]);
    words(&mut bytes, &[2, 2]);
    let change = |from: u32, to: u32| {
        let change = i128::from(to) - i128::from(from);
        leb128(if change < 0 { -2 * change - 1 } else { 2 * change })
    };
    let number = |number: u32| leb128(number.into());
    let seed = identity().page_seed().unwrap();
    let sums = [1, 0].map(|frame: usize| {
        xxhash_rust::xxh3::xxh3_64_with_seed(&digests()[frame].to_le_bytes(), seed).to_le_bytes().to_vec()
    });
    let behind_second = frames[1].0 + frames[1].1;
    for column in [
        [change(0, 0), change(0, 0)],
        [change(0, 1), change(2, 0)],
        [change(64, frames[1].0), change(behind_second, frames[0].0)],
        [number(frames[1].1), number(frames[0].1)],
        [number(8192), number(100)],
        [b"base/1/\xff\0".to_vec(), b"global/pg_control\0".to_vec()],
        [number(0o600), number(0o400)],
        [0x1122_3344_5566_7788_u64.to_le_bytes().to_vec(), vec![0; 8]],
        [change(0, 1_795_348_800), change(0, 0)],
        [number(8192), number(100)],
        [number(1), number(1)],
        [number(0), number(0)],
        [change(0, 0), change(0, 0)],
        [vec![], vec![]],
        sums,
    ] {
        text(&mut bytes, &column.concat());
    }
    assert_vector("file-table", &bytes);
    assert_vector("page-digests", &pack_digests());

    let table = FileTable::parse(&vector("file-table")).unwrap();
    assert_eq!(table.to_bytes().unwrap(), bytes);
    let place = table.packs[0].digests;
    let start = place.offset as usize;
    assert_eq!(start + place.stored_len as usize, pack.len());
    let name = PackName { backup: BACKUP.parse().unwrap(), number: 2 };
    let reader = PackReader::new(&keys(), REPOSITORY, name, &pack[..64]).unwrap();
    let read = reader.digests(&mut Decompressor::new().unwrap(), place.frame, &pack[start..]).unwrap();
    assert_eq!(read, PackDigests::parse(3, &pack_digests()).unwrap());
    for (file, frame) in table.files.iter().zip([1_u32, 0]) {
        assert_eq!((file.extents[0].frame, file.extents[0].frame_len), (frame, file.extents[0].plain_len));
        let mut found = Vec::new();
        page_digest_seed(seed, &extents()[frame as usize], &mut found);
        assert_eq!(read.of_frame(frame), Some(&found[..]), "{}", file.path);
        assert_eq!(file.sums, [digest_sum(seed, &found)], "{}", file.path);
    }
}

#[test]
fn json_objects_have_the_fields_of_the_specification() {
    let same = |fence: &str, written: &[u8]| {
        let specified: serde_json::Value = serde_json::from_str(block(fence)).unwrap();
        assert_eq!(specified, serde_json::from_slice::<serde_json::Value>(written).unwrap(), "{fence}");
    };
    let manifest = Manifest::parse(block("json manifest").as_bytes()).unwrap();
    same("json manifest", &manifest.to_bytes().unwrap());
    same("json identity", &serde_json::to_vec(&identity()).unwrap());
    let hold: Hold = serde_json::from_str(block("json hold")).unwrap();
    same("json hold", &serde_json::to_vec(&hold).unwrap());
    let attempt: BackupAttempt = serde_json::from_str(block("json attempt")).unwrap();
    same("json attempt", &serde_json::to_vec(&attempt).unwrap());
    let expiry: ExpiryRecord = serde_json::from_str(block("json expiry")).unwrap();
    same("json expiry", &serde_json::to_vec(&expiry).unwrap());
}

#[test]
fn what_walproof_seals_the_second_reader_opens() {
    let name = "watch/backups/20261122T130000Z-00000001";
    let context = Context { kind: ObjectKind::Manifest, identity: REPOSITORY, name };
    for keys in [keys(), KeyRing::unencrypted()] {
        for len in [0, 1, 5000, (1 << 20) + 5] {
            let plain: Vec<u8> =
                (0..len).map(|at: u32| at.to_le_bytes()[usize::from(at.is_multiple_of(3))]).collect();
            let sealed = seal_object(&keys, context, 1, &plain).unwrap();
            assert_eq!(open_all(&sealed, name).concat(), plain);
            assert_eq!(open_object(&keys, context, &sealed).unwrap(), plain);
        }
    }
}

#[test]
fn r25_frames_that_lie_about_compression_or_length_are_refused() {
    let name = "probe";
    let context = Context { kind: ObjectKind::Report, identity: REPOSITORY, name };
    let object = |compression: u8, flags: u8, plain_len: usize, content: &[u8]| {
        let mut bytes = header(9, true, 1 << 20);
        bytes[12] = compression;
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        let frame = Object::new(&bytes, name).seal(0, flags | LAST, plain_len, content);
        open_object(&keys(), context, &[bytes, frame].concat())
    };
    let packed = zstd::bulk::compress(&[7; 5000], 1).unwrap();
    assert_eq!(object(1, 0, 5000, &packed).unwrap(), [7; 5000]);
    assert_eq!(object(0, RAW, 3, b"abc").unwrap(), b"abc");
    for (compression, flags, plain_len, content) in [
        (0, 0, 5000, &packed[..]),
        (1, 0, 4999, &packed),
        (1, 0, 5001, &packed),
        (1, 0, (1 << 20) + 1, &packed),
        (1, 0, 5000, &packed[..packed.len() - 1]),
        (1, RAW, 4, b"abc"),
        (1, 4 | RAW, 3, b"abc"),
    ] {
        object(compression, flags, plain_len, content).unwrap_err();
    }
}
