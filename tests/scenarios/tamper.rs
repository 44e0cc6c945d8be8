//! Hands that change the repository. Nothing of theirs is believed: exit 5, from `wal-fetch` 205, and no byte
//! under its final name (R25).

use crate::support::fabricate::{ControlFile, FakeDataDir, MIB, SYSTEM_IDENTIFIER, history};
use crate::support::s3::{S3Server, S3Target};
use crate::support::site::{Site, files_below};
use crate::support::walproof_builder::WalproofBuilder;
use crate::support::{Repo, Scratch, Walproof};
use crate::support::{postgres::Cluster, process::Output};

/// What is done to the object `victim`; `partner` is another one of its kind.
fn harm(repo: &Repo, victim: &str, partner: &str, check: impl Fn(&str)) {
    let (content, other) = (repo.read(victim), repo.read(partner));
    let size = content.len();
    for (what, offset) in
        [("header", 3), ("key id", 17), ("salt", 30), ("middle", size / 2), ("end", size - 1)]
    {
        repo.flip_bit(victim, offset);
        check(&format!("{victim}: a flipped bit in its {what}"));
        repo.write(victim, &content);
    }
    for length in [0, 40, 64, size / 2, size - 1] {
        repo.truncate(victim, length);
        check(&format!("{victim}: cut to {length} of {size} bytes"));
        repo.write(victim, &content);
    }
    let longer: Vec<u8> = content.iter().copied().chain(*b"more").collect();
    repo.write(victim, &longer);
    check(&format!("{victim}: something appended"));
    repo.write(victim, &other);
    repo.write(partner, &content);
    check(&format!("{victim}: swapped with {partner}"));
    repo.write(victim, &content);
    repo.write(partner, &other);
}

/// One test over a repository wherever it is.
fn everywhere(test: impl Fn(Repo)) {
    test(Repo::local());
    let target = S3Target::from_env();
    test(Repo::s3(&target));
}

#[test]
fn r25_a_wal_object_that_was_changed_is_never_delivered() {
    everywhere(|repo| {
        let site = Site::new(repo);
        let names = site.archive_all([5, 6]);
        let [victim, partner] = [&names[0], &names[1]].map(|name| site.stored(name).remove(0));
        harm(site.repo(), &victim, &partner, |what| {
            println!("{what}");
            site.fetch_fails(&names[0], 205);
        });
        site.comes_back(&names[0]);
    });
}

#[test]
fn r25_a_history_that_was_changed_is_never_delivered() {
    everywhere(|repo| {
        let site = Site::new(repo);
        for timeline in 2..=3_u32 {
            let switches: Vec<_> = (1..timeline).map(|past| (past, u64::from(past) * 0x10_0000)).collect();
            site.archive_text(&format!("0000000{timeline}.history"), history(&switches));
        }
        let [victim, partner] =
            ["00000002.history", "00000003.history"].map(|name| site.stored(name).remove(0));
        harm(site.repo(), &victim, &partner, |what| {
            println!("{what}");
            site.fetch_fails("00000002.history", 205);
        });
        site.comes_back("00000002.history");
    });
}

#[test]
fn r25_an_identity_that_was_changed_stops_everything() {
    everywhere(|repo| {
        let site = Site::new(repo);
        let name = site.archive_all([5]).remove(0);
        let waiting = site.data.add_wal(&site.data.wal(6));
        let (victim, partner) = (site.repo().key("identity"), site.stored(&name).remove(0));
        harm(site.repo(), &victim, &partner, |what| {
            println!("{what}");
            site.fetch_fails(&name, 205);
            site.walproof.push(&waiting).complains_with(5);
            site.walproof.run(["init"]).complains_with(5);
            site.walproof.run(["wal-list"]).complains_with(5);
        });
        assert_eq!(site.stored(&waiting), [""; 0]);
        site.comes_back(&name);
        site.walproof.push(&waiting).success();
    });
}

#[test]
fn r25_a_renamed_wal_object_is_not_what_its_name_says() {
    let site = Site::new(Repo::local());
    let names = site.archive_all([5, 6]);
    let [five, six] = [&names[0], &names[1]].map(|name| site.stored(name).remove(0));
    let wanted = "000000010000000000000007";
    // The object of 5, whole and authentic, under the name of 7.
    site.repo().copy(&five, &five.replace(&names[0], wanted));
    site.fetch_fails(wanted, 205).hints("renamed");
    // The object of 5 with the digest of 6: not the content that the key promises.
    let digest = six.rsplit_once('-').unwrap().1;
    site.repo().rename(&five, &format!("{}-{digest}", five.rsplit_once('-').unwrap().0));
    site.fetch_fails(&names[0], 205).hints("renamed");
    // In another directory it is nowhere.
    site.repo().rename(&six, &six.replace("/0000000100000000/", "/0000000100000001/"));
    site.fetch(&names[1]).fails_with(1);
}

#[test]
fn r25_objects_of_another_cluster_do_not_fit_even_with_the_same_key() {
    let repo = Repo::local();
    let site = Site::new(repo.clone());
    let control = ControlFile::new(15).segment_size(MIB).system_identifier(4242);
    let other = FakeDataDir::with(control);
    let other_walproof =
        Walproof::builder(repo.clone()).data_dir(other.path()).key_of(&site.walproof).build();
    other_walproof.run(["init"]).success();
    let name = other.add_wal(&other.wal(5));
    other_walproof.push(&name).success();

    let here = |key: &str| key.replace("/4242/", &format!("/{SYSTEM_IDENTIFIER}/"));
    let stolen = repo.key(&format!("/{name}-"));
    repo.copy(&stolen, &here(&stolen));
    site.fetch_fails(&name, 205);
    // Nor does their identity.
    let identity = repo.key("/4242/identity");
    repo.copy(&identity, &here(&identity));
    site.fetch_fails(&name, 205).hints("renamed");
}

#[test]
fn a_wrong_key_opens_nothing_and_says_which_one_is_missing() {
    everywhere(|repo| {
        let site = Site::new(repo);
        let name = site.archive_all([5]).remove(0);
        let stranger = Walproof::builder(site.repo().clone()).data_dir(site.data.path()).build();
        let stored = site.repo().objects();
        site.fetch_with(&stranger, &name)
            .complains_with(205)
            .stderr_contains("sealed with key")
            .hints("key file");
        site.nothing_fetched();
        for args in
            [vec!["init"], vec!["wal-list"], vec!["backup-list"], vec!["wal-push", &format!("pg_wal/{name}")]]
        {
            stranger.run(args).complains_with(5).hints("key file");
        }
        assert_eq!(site.repo().objects(), stored);
    });
}

#[test]
fn an_encrypted_repository_and_one_that_is_not_are_not_mixed_up() {
    let encrypted = Site::new(Repo::local());
    let name = encrypted.archive_all([5]).remove(0);
    let plain =
        |site: &Site| Walproof::builder(site.repo().clone()).data_dir(site.data.path()).unencrypted().build();
    let output = encrypted.fetch_with(&plain(&encrypted), &name);
    output.complains_with(205).stderr_contains("sealed with key");
    plain(&encrypted).push(&name).complains_with(5);

    let open = Site::with(Repo::local(), WalproofBuilder::unencrypted);
    let name = open.archive_all([5]).remove(0);
    let keyed = Walproof::builder(open.repo().clone()).data_dir(open.data.path()).build();
    open.fetch_with(&keyed, &name).complains_with(205).hints("mode = \"none\"");
    keyed.push(&name).complains_with(5);
    open.nothing_fetched();
    // Accidents are noticed without a key, too.
    let object = open.stored(&name).remove(0);
    let size = open.repo().read(&object).len();
    open.repo().flip_bit(&object, size / 2);
    open.fetch_fails(&name, 205);
}

#[test]
fn r27_a_repository_of_a_newer_format_is_named() {
    let site = Site::new(Repo::local());
    let name = site.archive_all([5]).remove(0);
    for (key, commands) in [(site.stored(&name).remove(0), false), (site.repo().key("identity"), true)] {
        let mut content = site.repo().read(&key);
        content[8..10].copy_from_slice(&2_u16.to_le_bytes());
        site.repo().write(&key, &content);
        site.fetch_fails(&name, 205).stderr_contains("format version 2").hints("newer walproof");
        for args in [["init"], ["wal-list"], ["backup-list"]].into_iter().filter(|_| commands) {
            site.walproof.run(args).complains_with(5).stderr_contains("format version 2").hints("upgrade");
        }
    }
}

/// A backup of a real cluster, copied to wherever a test tampers with it.
struct Backup {
    walproof: Walproof,
    out: Scratch,
}

impl Backup {
    fn take() -> (Cluster, Walproof) {
        let mut cluster = Cluster::builder().segment_size_mb(1).create();
        let walproof = Walproof::for_cluster(&cluster, Repo::local());
        cluster.set("archive_mode", "on").set("archive_command", &walproof.archive_command());
        cluster.start();
        walproof.run(["init"]).success();
        walproof.run(["backup-push"]).success();
        (cluster, walproof)
    }

    /// The same objects in another place, seen by a host that has the key.
    fn copied(from: &Walproof, repo: Repo) -> Self {
        for key in from.repo().keys("") {
            repo.write(&key, &from.repo().read(&key));
        }
        let walproof = Walproof::builder(repo).key_of(from).build();
        Self { walproof, out: Scratch::new() }
    }

    fn restore(&self) -> Output {
        self.walproof.run(["restore", "-q", "--to", self.out.join("data").to_str().unwrap()])
    }

    /// The restore fails with `code`, and no server can start on what it left.
    #[track_caller]
    fn restore_fails(&self, code: i32) {
        let output = self.restore();
        output.fails_with(code).says_nowhere("panicked");
        let data = self.out.join("data");
        assert!(!data.join("global/pg_control").exists(), "{:?}", files_below(&data));
        let _ = std::fs::remove_dir_all(data);
    }
}

#[test]
fn r25_a_backup_that_was_changed_is_never_restored() {
    let (cluster, original) = Backup::take();
    drop(cluster);
    let server = S3Server::start();
    for repo in [Repo::local(), Repo::s3(&server)] {
        let backup = Backup::copied(&original, repo.clone());
        let [manifest, files] = ["/backups/", "/files-"].map(|part| repo.keys(part).remove(0));
        let packs = repo.keys("/packs/");
        for (victim, partner) in [(&manifest, &files), (&files, &packs[0]), (&packs[0], &files)] {
            harm_backup(&backup, victim, partner);
        }
        // The newest segment says how far the backup reaches.
        let wal = repo.keys("/wal/").into_iter().rfind(|key| !key.contains(".backup-")).unwrap();
        let sealed = repo.read(&wal);
        for length in [0, 70] {
            repo.truncate(&wal, length);
            println!("{wal}: cut to {length}");
            backup.restore_fails(5);
        }
        repo.write(&wal, &sealed);
        repo.rename(&packs[0], &format!("{}0", packs[0]));
        backup.restore_fails(5);
        repo.rename(&format!("{}0", packs[0]), &packs[0]);
        rename_manifest(&backup, &manifest);
        backup.restore().success();
        assert!(backup.out.join("data/global/pg_control").exists());
    }
}

#[test]
fn r25_a_damaged_backup_does_not_stand_in_the_way_of_the_others() {
    let (cluster, original) = Backup::take();
    original.run(["backup-push"]).success();
    drop(cluster);
    let backup = Backup::copied(&original, Repo::local());
    let (repo, walproof) = (backup.walproof.repo(), &backup.walproof);
    let manifests = repo.keys("/backups/");
    let ids: Vec<&str> = manifests.iter().map(|key| key.rsplit('/').next().unwrap()).collect();
    let [older, newer] = ids[..] else { panic!("{ids:?}") };
    repo.flip_bit(&manifests[1], 100);

    let listed = walproof.run(["backup-list"]);
    listed.fails_with(5).stderr_contains(newer).hints("other backups are not affected");
    assert!(listed.stdout().contains(older) && !listed.stdout().contains(newer), "{}", listed.stdout());
    walproof.run(["status"]).stdout_contains(&format!("read backup {newer}"));
    let data = backup.out.join("data");
    walproof.run(["restore", "-q", "--backup", newer, "--to", data.to_str().unwrap()]).fails_with(5);
    let restored = walproof.run(["restore", "--to", data.to_str().unwrap()]);
    restored.success().stderr_contains(&format!("backup {newer} is left out"));
    assert!(data.join("global/pg_control").exists());
    std::fs::remove_dir_all(&data).unwrap();

    // What a store serves is not read without bound.
    let giant = repo.dir().unwrap().join(&manifests[1]);
    std::fs::OpenOptions::new().write(true).open(giant).unwrap().set_len(3 << 30).unwrap();
    walproof.run(["backup-list"]).fails_with(5).stderr_contains("3221225472 bytes: more than any object");

    repo.flip_bit(&manifests[0], 100);
    backup.restore_fails(5);
}

/// Like [`harm`], with less of what costs a restore each.
fn harm_backup(backup: &Backup, victim: &str, partner: &str) {
    let repo = backup.walproof.repo();
    let (content, other) = (repo.read(victim), repo.read(partner));
    // A restore needs neither the header nor the empty last frame of a pack: they are for `verify`.
    let (first, last) = if victim.contains("/packs/") { (64, 200) } else { (3, 30) };
    let mut offsets = vec![content.len() / 2];
    // What is opened is the same wherever it lies; S3 costs a second each.
    if repo.dir().is_some() {
        offsets.extend([first, content.len() / 3, content.len() - last]);
    }
    for offset in offsets {
        repo.flip_bit(victim, offset);
        println!("{victim}: a flipped bit at {offset} of {}", content.len());
        backup.restore_fails(5);
        repo.write(victim, &content);
    }
    repo.truncate(victim, content.len() / 2);
    println!("{victim}: cut");
    backup.restore_fails(5);
    repo.write(victim, &other);
    println!("{victim}: replaced by {partner}");
    backup.restore_fails(5);
    repo.write(victim, &content);
}

/// A manifest under another id is a backup that nobody took.
fn rename_manifest(backup: &Backup, manifest: &str) {
    let repo = backup.walproof.repo();
    let id = manifest.rsplit('/').next().unwrap();
    let forged = id.replacen("202", "201", 1);
    let other = manifest.replace(id, &forged);
    repo.copy(manifest, &other);
    backup.walproof.run(["backup-show", &forged]).complains_with(5);
    backup.walproof.run(["backup-list"]).fails_with(5);
    repo.delete(&other);
    backup.walproof.run(["backup-show", id]).success();
}
