//! The store's verbs over a network: listings page by page, deletes by the thousand, credentials that change.

use crate::support::Repo;
use crate::support::s3::{Fault, S3Server, Verb};
use crate::support::site::Site;
use std::time::{Duration, Instant};
use walproof::config::Config;
use walproof::error::Kind;
use walproof::store::{Policy, Store};

/// The store as the program's configuration opens it; keys begin with "pg/".
fn open(site: &Site, total: Duration) -> Store {
    let config = Config::load(site.walproof.config()).unwrap();
    let mut policy = Policy::within(total);
    (policy.idle, policy.attempt) = (total, total);
    config.namespace(policy).unwrap().store().clone()
}

fn fill(site: &Site, count: usize) -> Vec<String> {
    let keys = (0..count).map(|number| format!("many/{number:06}"));
    let write = |key: String| {
        site.repo().write(&key, b"x");
        format!("pg/{key}")
    };
    keys.map(write).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_long_listing_has_its_deadline_by_the_page() {
    let server = S3Server::start();
    let site = Site::new(Repo::s3(&server));
    let keys = fill(&site, 3500);
    let total = Duration::from_secs(3);
    let store = open(&site, total);
    server.faults().forget().add(Fault::delay(Duration::from_secs(1)).on(Verb::List));
    let begin = Instant::now();
    let listed = store.list("pg/many").await.unwrap();
    assert!(listed.iter().map(|object| &object.key).eq(&keys));
    assert!(begin.elapsed() > total, "the whole took longer than any request may");
    assert_eq!(server.faults().count(Verb::List), 4);

    // A page that fails is asked for again, not the whole.
    server.faults().clear().forget().add(Fault::status(503).on(Verb::List).nth(3));
    assert_eq!(store.list("pg/many").await.unwrap().len(), keys.len());
    assert_eq!(server.faults().count(Verb::List), 5);

    // Who has seen enough pays for no more.
    server.faults().clear().forget();
    let mut seen = Vec::new();
    let see = |page: Vec<walproof::store::Object>| {
        seen.extend(page.into_iter().map(|object| object.key));
        if seen.len() >= 1500 {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    };
    store.list_pages("pg/many", Some("pg/many/000999\u{0}"), see).await.unwrap();
    assert_eq!((seen.len(), seen[0].as_str()), (2000, "pg/many/001000"));
    assert_eq!(server.faults().count(Verb::List), 2);
    assert_eq!(store.list_after("pg/many", "pg/many/0034").await.unwrap().len(), 100);
    assert_eq!(store.list_beginning("pg/many", "00001").await.unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_are_deleted_a_thousand_at_a_time() {
    let server = S3Server::start();
    let site = Site::new(Repo::s3(&server));
    let mut keys = fill(&site, 2300);
    keys.push("pg/many/absent".into());
    let store = open(&site, Duration::from_secs(20));
    server.faults().forget();
    let results = store.delete_many(keys.clone()).await;
    assert!(results.iter().map(|(key, _)| key).eq(&keys));
    assert!(results.iter().all(|(_, result)| result.is_ok()));
    assert_eq!((server.faults().count(Verb::DeleteMany), server.faults().count(Verb::Delete)), (3, 0));
    assert!(site.repo().keys("many/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delete_is_told_from_a_store_that_fails() {
    let server = S3Server::start();
    let site = Site::new(Repo::s3(&server));
    let keys = fill(&site, 12);
    let store = open(&site, Duration::from_secs(2));
    // A server that takes no batches: one by one, and one object is locked.
    server
        .faults()
        .add(Fault::answer(501, "NotImplemented").on(Verb::DeleteMany))
        .add(Fault::status(403).on(Verb::Delete).key("000003"));
    for (key, result) in store.delete_many(keys.clone()).await {
        let kind = result.map_err(|error| error.kind());
        assert_eq!(kind, if key.ends_with("000003") { Err(Kind::Denied) } else { Ok(()) }, "{key}");
    }
    server.faults().clear().add(Fault::status(503));
    for (key, result) in store.delete_many(keys).await {
        assert_eq!(result.map_err(|error| error.kind()), Err(Kind::Unreachable), "{key}");
    }
    assert_eq!(site.repo().keys("many/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_credentials_are_read_again() {
    let server = S3Server::start();
    let site = Site::new(Repo::s3(&server));
    let right = server.location().secret_key;
    let secret = |text: &str| drop(site.walproof.scratch().file("secret_access_key", text));
    secret("was/valid/yesterday");
    let store = open(&site, Duration::from_secs(5));
    assert_eq!(store.list("pg").await.unwrap_err().kind(), Kind::Denied);
    secret(&right);
    assert!(!store.list("pg").await.unwrap().is_empty());
    // An empty file, half way through being replaced, is not taken.
    secret("");
    assert!(!store.list("pg").await.unwrap().is_empty());
}
