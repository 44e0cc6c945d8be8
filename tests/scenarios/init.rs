//! Making a repository, once.

use crate::support::{Repo, Walproof};
use crate::support::{
    fabricate::SYSTEM_IDENTIFIER, postgres::Cluster, process, s3::S3Server, site::Site,
    walproof_builder::WalproofBuilder,
};
use serde_json::json;

#[test]
fn init_creates_a_repository_and_then_finds_it() {
    let site = Site::uninitialised(Repo::local(), |builder| builder);
    let identifier = SYSTEM_IDENTIFIER.to_string();
    site.walproof.run(["init"]).success().stdout_contains("created, encrypted").stdout_contains(&identifier);
    let made = site.repo().objects();
    assert_eq!(made.len(), 1, "{made:?}");
    site.walproof.run(["init"]).success().stdout_contains("already there");
    assert_eq!(site.repo().objects(), made);

    let answer = site.walproof.json(["init"]);
    assert_eq!((&answer["created"], &answer["encrypted"]), (&json!(false), &json!(true)));
    assert_eq!((&answer["cluster"], &answer["system_identifier"]), (&json!("roadwave"), &json!(identifier)));
    assert_eq!(answer["repository"], json!(site.repo().url()));
}

#[test]
fn init_does_not_replace_an_identity_that_was_lost() {
    let site = Site::new(Repo::local());
    let name = site.archive_all([5]).remove(0);
    let (key, identity) = (site.repo().key("identity"), site.repo().read(&site.repo().key("identity")));
    site.repo().delete(&key);
    site.walproof.run(["init"]).complains_with(5).stderr_contains("no identity").hints("deleted");
    site.walproof.push(&name).complains_with(5).stderr_contains("no identity");
    site.fetch_fails(&name, 205);
    site.repo().write(&key, &identity);
    site.walproof.run(["init"]).success();
    site.comes_back(&name);
}

#[test]
fn init_says_when_nothing_is_encrypted() {
    let site = Site::uninitialised(Repo::local(), WalproofBuilder::unencrypted);
    site.walproof.run(["init"]).success().stdout_contains("NOT encrypted");
    site.archive_all([5]).iter().for_each(|name| site.comes_back(name));
}

/// A repository that two hands make at the same moment is one repository, and what is archived afterwards opens.
#[test]
fn two_inits_at_once_make_one_repository() {
    for _ in 0..4 {
        let site = Site::uninitialised(Repo::local(), |builder| builder);
        let inits = [(); 3].map(|()| site.walproof.spawn(["init"]));
        for init in inits {
            init.wait(process::TIMEOUT).success();
        }
        assert_eq!(site.repo().objects().len(), 1);
        site.archive_all([5, 6]).iter().for_each(|name| site.comes_back(name));
    }
}

#[test]
fn clusters_share_a_place_but_nothing_else() {
    let site = Site::new(Repo::local());
    let name = site.archive_all([5]).remove(0);
    let builder = Walproof::builder(site.repo().clone()).data_dir(site.data.path());
    let other = builder.name("other.cluster-2").build();
    site.fetch_with(&other, &name).complains_with(204).hints("init");
    other.run(["init"]).success().stdout_contains("created");
    site.fetch_with(&other, &name).fails_with(1);
    other.push(&name).success();
    assert_eq!(site.stored(&name).len(), 2);
    site.comes_back(&name);
}

#[test]
fn without_a_repository_every_command_of_an_operator_says_so_alike() {
    let cluster = Cluster::builder().segment_size_mb(1).start();
    let server = S3Server::start();
    for repo in [Repo::local(), Repo::s3(&server)] {
        let walproof = Walproof::for_cluster(&cluster, repo);
        let target = walproof.scratch().join("restored");
        let commands: [&[&str]; 6] = [
            &["wal-list"],
            &["backup-list"],
            &["backup-show", "20260101T000000Z-1a2b3c4d"],
            &["backup-push"],
            &["restore", "--to", target.to_str().unwrap()],
            &["status"],
        ];
        for command in commands {
            let output = walproof.run(command.iter());
            output.fails_with(8).stderr_contains("there is no repository").stderr_contains("walproof init");
        }
    }
}
