//! Deleting, one object or very many.

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use object_store::path::Path as Key;

use super::failure::{Failure, classify};
use super::{Store, parse};
use crate::error::{Kind, Result, ResultExt};

/// As many as S3 takes in one request.
const BATCH: usize = 1000;
/// Batches on their way at a time.
const BATCHES: usize = 4;
/// Single deletes on their way at a time.
const SINGLES: usize = 16;

impl Store {
    /// Delete the object; one that is not there is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = parse(key)?;
        let delete = || async {
            let location = stream::once(std::future::ready(Ok(path.clone()))).boxed();
            match self.objects.delete_stream(location).try_collect::<Vec<_>>().await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        self.run("delete", || self.doing("delete", key), delete)
            .await
            .with_context(|| self.doing("delete", key))
    }

    /// Delete these objects, a thousand a request where the store can; what became of each, in their order. One that is
    /// not there is fine. Kind `Denied` is the store's word that this object stays (permissions, Object Lock): trying
    /// again does not help; `Unreachable` is no answer at all.
    pub async fn delete_many(&self, keys: Vec<String>) -> Vec<(String, Result<()>)> {
        let batches: Vec<Vec<String>> = keys.chunks(BATCH).map(<[String]>::to_vec).collect();
        let deletes = batches.into_iter().map(|batch| self.delete_batch(batch));
        stream::iter(deletes).buffered(BATCHES).collect::<Vec<_>>().await.concat()
    }

    async fn delete_batch(&self, keys: Vec<String>) -> Vec<(String, Result<()>)> {
        let outcomes = self.try_batch(&keys).await;
        let outcomes = outcomes.unwrap_or_else(|| vec![None; keys.len()]);
        // What the batch left open is decided one by one: a passing fault, or a server that knows no batches.
        let singles = keys.into_iter().zip(outcomes).map(|(key, outcome)| async move {
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => self.delete(&key).await,
            };
            (key, outcome)
        });
        stream::iter(singles).buffered(SINGLES).collect().await
    }

    /// One request for all of `keys`: for each what became of it, or `None` where that has to be asked again. `None`
    /// for the whole when the store does not take such requests.
    async fn try_batch(&self, keys: &[String]) -> Option<Vec<Option<Result<()>>>> {
        let paths: Vec<Key> = keys.iter().map(|key| parse(key)).collect::<Result<_>>().ok()?;
        let bulk = self.bulk.as_ref()?.get().ok()?;
        let request = || async {
            let locations = stream::iter(paths.clone()).map(Ok).boxed();
            let mut answers: Vec<object_store::Result<Key>> = bulk.delete_stream(locations).collect().await;
            match answers.pop() {
                // A request that failed as a whole is one failure.
                Some(Err(error)) if answers.len() + 1 < paths.len() => Err(error),
                last => Ok(answers.into_iter().chain(last).collect::<Vec<_>>()),
            }
        };
        let what = || format!("delete {} objects of {self}", keys.len());
        let outcome = |answer: object_store::Result<Key>| match answer.map_err(|error| classify(&error)) {
            Ok(_) => Some(Ok(())),
            Err(Failure::Final(error)) if error.kind() == Kind::NotFound => Some(Ok(())),
            Err(Failure::Final(error)) => Some(Err(error.context("delete"))),
            Err(Failure::Passing(_)) => None,
        };
        match self.run("delete", what, request).await {
            Ok(answers) if answers.len() == keys.len() => Some(answers.into_iter().map(outcome).collect()),
            // Not worth another ten minutes for each of them.
            Err(error) if error.kind() == Kind::Unreachable => {
                Some(vec![Some(Err(error.context(what()))); keys.len()])
            }
            // A refusal of the whole may be a server that knows no such requests. Where the first is refused by itself,
            // too, the rest need not be asked for.
            Err(error) if error.kind() == Kind::Denied => match self.delete(keys.first()?).await {
                Err(error) if error.kind() == Kind::Denied => Some(vec![Some(Err(error)); keys.len()]),
                first => Some(std::iter::once(Some(first)).chain(vec![None; keys.len() - 1]).collect()),
            },
            // Nor does an answer that is not one for each say anything of each.
            Ok(_) | Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Location, Policy};

    #[tokio::test]
    async fn many_are_deleted_and_each_is_told() {
        let directory = tempfile::tempdir().unwrap();
        for location in [Location::File(directory.path().to_owned()), Location::Memory] {
            let store = Store::open(&location, Policy::default()).unwrap();
            let keys: Vec<String> = (0..1500).map(|number| format!("d/{number}")).collect();
            for key in keys.iter().step_by(100) {
                store.put(key, Vec::new()).await.unwrap();
            }
            store.put("d/stays", Vec::new()).await.unwrap();
            let results = store.delete_many(keys.clone()).await;
            assert!(results.iter().map(|(key, _)| key).eq(&keys));
            assert!(results.iter().all(|(_, result)| result.is_ok()));
            assert_eq!(store.list("d").await.unwrap().len(), 1);
        }
        assert!(
            Store::open(&Location::Memory, Policy::default())
                .unwrap()
                .delete_many(Vec::new())
                .await
                .is_empty()
        );
    }
}
