//! Backups as later versions write them, made of parts of frames that others wrote; and what a restore compares.

use crate::support::{Archived, Repo, site::files_below};
use std::collections::BTreeMap;
use std::fs;
use walproof::digest_reader::DigestReader;
use walproof::format::{BackupId, Extent, FileTable, Manifest, digest_sum};
use walproof::repository::{Namespace, Repository};
use walproof::seal::{Header, KeyRing};
use walproof::store::{Location, Policy, Store};

/// Hands of the library in a copy of a repository.
struct Forge {
    store: Store,
    repository: Repository,
    manifest: Manifest,
    tables: Vec<FileTable>,
}

impl Forge {
    /// Take apart the only backup.
    async fn of(archived: &Archived) -> Self {
        let repo = archived.repo();
        let store = Store::open(&Location::Memory, Policy::default()).unwrap();
        for key in repo.keys("") {
            store.put(&key, vec![repo.read(&key).into()]).await.unwrap();
        }
        let key = fs::read_to_string(archived.walproof.scratch().join("key")).unwrap();
        let name = archived.walproof.name().parse().unwrap();
        let namespace = Namespace::new(store.clone(), String::new(), name, KeyRing::parse(&key).unwrap(), 1);
        let repository = namespace.open(archived.cluster.system_identifier()).await.unwrap();
        let id = repository.list_backup_ids().await.unwrap().remove(0);
        let manifest = repository.get_manifest(&id).await.unwrap();
        let mut tables = Vec::new();
        for number in 0..u32::try_from(manifest.parts.len()).unwrap() {
            let mut table = repository.get_file_table(&id, number).await.unwrap();
            DigestReader::default().fill(&repository, &mut table).await.unwrap();
            tables.push(table);
        }
        Self { store, repository, manifest, tables }
    }

    /// Put it as another backup, which needs the packs of the first.
    async fn put(mut self, archived: &Archived) -> String {
        let id: BackupId = self.manifest.id.as_str().replacen('-', "-f", 1)[..25].parse().unwrap();
        self.manifest.id = id.clone();
        self.manifest.parts.clear();
        for (number, table) in self.tables.iter().enumerate() {
            let number = u32::try_from(number).unwrap();
            self.manifest.parts.push(self.repository.put_file_table(&id, number, table).await.unwrap());
        }
        self.repository.put_manifest(&self.manifest).await.unwrap();
        for object in self.store.list("").await.unwrap() {
            if object.key.contains(id.as_str()) {
                archived.repo().write(&object.key, &self.store.get(&object.key).await.unwrap());
            }
        }
        id.to_string()
    }

    fn files(&mut self) -> impl Iterator<Item = &mut walproof::format::FileRecord> {
        self.tables.iter_mut().flat_map(|table| &mut table.files)
    }
}

/// The same bytes in extents of one, two and five pages, and the rest.
fn cut(extent: &Extent) -> Vec<Extent> {
    let (mut parts, mut rest) = (Vec::new(), *extent);
    for pages in [1, 2, 5] {
        let plain_len = pages * 8192;
        if rest.plain_len > plain_len {
            parts.push(Extent { plain_len, ..rest });
            rest = Extent { skip: rest.skip + plain_len, plain_len: rest.plain_len - plain_len, ..rest };
        }
    }
    parts.push(rest);
    parts
}

#[tokio::test]
async fn a_backup_is_restored_out_of_the_middle_of_anothers_frames() {
    let archived = Archived::start(Repo::local());
    archived.cluster.pgbench(["-i", "-q", "-s", "1"]);
    let id = archived.backup()["id"].as_str().unwrap().to_owned();
    archived.archive_all();
    let mut forge = Forge::of(&archived).await;
    let seed = forge.repository.identity().page_seed().unwrap();
    for file in forge.files() {
        file.extents = file.extents.iter().flat_map(cut).collect();
        // A table that begins with what was its third page, and has its first page twice.
        if file.size == 8192 * 5 && file.path.as_bytes().starts_with(b"base/") {
            let page = |skip| Extent { skip, plain_len: 8192, ..file.extents[0] };
            file.extents = [2, 0, 1, 4, 0].map(|number| page(number * 8192)).to_vec();
            let digests = [2, 0, 1, 4, 0].map(|number: usize| file.digests[number]);
            file.sums = vec![digest_sum(seed, &digests)];
        }
    }
    let forged = forge.put(&archived).await;
    let restore = |name: &str, id: &str| {
        let to = archived.target(name);
        archived.try_restore(&to, ["--backup", id]).success();
        to
    };
    let (original, same) = (restore("original", &id), restore("same", &forged));
    let (mut compared, mut moved) = (0, 0);
    for path in files_below(&original) {
        let path = path.strip_prefix(&original).unwrap_or(&path).to_owned();
        let [before, after] = [&original, &same].map(|root| fs::read(root.join(&path)).unwrap());
        if path.starts_with("base") && before.len() == 8192 * 5 {
            let pages: Vec<&[u8]> = before.chunks(8192).collect();
            assert!([2, 0, 1, 4, 0].map(|number| pages[number]).concat() == after, "{}", path.display());
            moved += 1;
        } else if !path.ends_with("postgresql.auto.conf") {
            assert!(before == after, "{}", path.display());
            compared += 1;
        }
    }
    assert!(compared > 500 && moved > 5, "{compared} {moved}");
}

#[tokio::test]
async fn r25_a_page_that_is_not_the_one_backed_up_is_not_restored() {
    let archived = Archived::start(Repo::local());
    archived.backup();
    archived.archive_all();
    for name in ["base/1/1259", "global/pg_control"] {
        let mut forge = Forge::of(&archived).await;
        let file = forge.files().find(|file| file.path.as_bytes() == name.as_bytes()).unwrap();
        // As if it had been put together wrongly: every frame is authentic.
        file.sums[0] ^= 1;
        let forged = forge.put(&archived).await;
        let to = archived.target("refused");
        let refused = archived.try_restore(&to, ["--backup", &forged]);
        refused.fails_with(5).stderr_contains(name.rsplit('/').next().unwrap());
        refused.stderr_contains("not those that were backed up");
        assert!(!to.exists(), "refused before the disk is touched");
        for key in archived.repo().keys(&forged) {
            archived.repo().delete(&key);
        }
    }
}

#[tokio::test]
async fn a_manifest_names_its_packs_with_their_live_bytes() {
    let archived = Archived::start(Repo::local());
    let listed = archived.backup();
    let forge = Forge::of(&archived).await;
    let list = forge.repository.get_pack_list(&forge.manifest.id).await.unwrap();
    let stored: Vec<u64> = archived
        .repo()
        .objects()
        .into_iter()
        .filter(|(key, _)| key.contains("/packs/"))
        .map(|(_, size)| size)
        .collect();
    assert_eq!(list.0.iter().map(|pack| u64::from(pack.bytes)).collect::<Vec<_>>(), stored);
    let mut frames = BTreeMap::new();
    for table in &forge.tables {
        for extent in table.files.iter().flat_map(|file| &file.extents) {
            let pack = &table.packs[extent.pack as usize].name;
            frames.insert((pack, extent.frame), u64::from(extent.stored_len));
        }
    }
    let used = |name| frames.iter().filter(move |((pack, _), _)| *pack == name).map(|(_, bytes)| bytes).sum();
    let live_bytes: Vec<u64> = list.0.iter().map(|pack| used(&pack.name)).collect();
    assert_eq!(list.0.iter().map(|pack| u64::from(pack.live_bytes)).collect::<Vec<_>>(), live_bytes);
    let [packs] = forge.manifest.packs.try_into().unwrap();
    assert_eq!((packs.backup, packs.key_ids.len()), (forge.manifest.id.clone(), 1));
    assert_eq!(listed["stored_bytes"], packs.live_bytes);
    assert_eq!(packs.live_bytes, frames.values().sum::<u64>(), "no frame lies in a pack that is not named");
    let headers = forge.tables.iter().flat_map(|table| &table.packs).map(|pack| &pack.header);
    assert!(headers.map(|header| Header::parse(header).unwrap().key_id).all(|id| packs.key_ids == [id]));
    assert_eq!((packs.bytes, packs.packs), (stored.iter().sum(), stored.len() as u64));
    let added =
        |(key, _): &(String, u64)| key.contains(forge.manifest.id.as_str()) && !key.contains("/backups/");
    let new_bytes: u64 = archived.repo().objects().into_iter().filter(added).map(|(_, size)| size).sum();
    assert_eq!(listed["new_bytes"], new_bytes);
}
