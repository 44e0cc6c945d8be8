//! Watching the store: every single try of every request is reported to an observer.

use std::fmt::Debug;
use std::time::Duration;

use crate::error::{Error, Kind};

/// How one try of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The store answered; that there is no such object is an answer, too.
    Answered,
    /// No answer, no answer in time, or a refusal.
    Failed,
}

impl Outcome {
    pub(super) fn of(error: &Error) -> Self {
        if error.kind() == Kind::NotFound { Self::Answered } else { Self::Failed }
    }
}

/// Something that wants to know how the store is doing. Called between tries: it must be quick.
pub trait Observe: Send + Sync + Debug {
    /// One try of `verb` (put, get, get_range, list, delete) ended after `elapsed`. Tries that the caller gave up
    /// before they ended are not told.
    fn request(&self, verb: &'static str, outcome: Outcome, elapsed: Duration);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::store::{Credentials, Location, Policy, S3Location, Store};

    #[derive(Debug, Default)]
    struct Seen(Mutex<Vec<(&'static str, Outcome)>>);

    impl Observe for Seen {
        fn request(&self, verb: &'static str, outcome: Outcome, _: Duration) {
            self.0.lock().unwrap().push((verb, outcome));
        }
    }

    fn store(location: &Location, total: Duration) -> (Store, Arc<Seen>) {
        let seen = Arc::new(Seen::default());
        let store = Store::open(location, Policy::within(total)).unwrap();
        (store.observed(Arc::clone(&seen) as Arc<dyn Observe>), seen)
    }

    #[tokio::test]
    async fn every_verb_is_told() {
        let (store, seen) = store(&Location::Memory, Duration::from_secs(5));
        store.put("a/b", vec!["text".into()]).await.unwrap();
        store.get("a/b").await.unwrap();
        store.get_range("a/b", 1..3).await.unwrap();
        store.list("a").await.unwrap();
        store.list_directories("a").await.unwrap();
        store.delete("a/b").await.unwrap();
        assert_eq!(store.get("a/b").await.unwrap_err().kind(), Kind::NotFound);
        let told = ["put", "get", "get_range", "list", "list", "delete", "get"];
        assert_eq!(*seen.0.lock().unwrap(), told.map(|verb| (verb, Outcome::Answered)));
    }

    #[tokio::test]
    async fn every_try_that_fails_is_told() {
        // A port that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let credentials = Credentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "secret".to_owned().into(),
            session_token: None,
        };
        let s3 = S3Location {
            bucket: "b".to_owned(),
            region: "r".to_owned(),
            endpoint: format!("http://127.0.0.1:{port}"),
            allow_http: true,
            credentials: Arc::new(Arc::new(credentials)),
            server_side_encryption: false,
            ca: None,
        };
        let (store, seen) = store(&Location::S3(Box::new(s3)), Duration::from_millis(600));
        store.get("a").await.unwrap_err();
        let seen = seen.0.lock().unwrap();
        assert!(seen.len() > 1, "{seen:?}");
        assert!(seen.iter().all(|told| *told == ("get", Outcome::Failed)), "{seen:?}");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_a_failed_put() {
        let scratch = tempfile::tempdir().unwrap();
        let (store, seen) = store(&Location::File(scratch.path().to_owned()), Duration::from_secs(5));
        std::fs::write(scratch.path().join("a"), "in the way").unwrap();
        store.put("a/b", Vec::new()).await.unwrap_err();
        assert_eq!(*seen.0.lock().unwrap(), [("put", Outcome::Failed)]);
    }
}
