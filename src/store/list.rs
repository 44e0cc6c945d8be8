//! Listings, page by page: each page has a deadline of its own and is repeated on its own, however many there are (R5).

use std::ops::ControlFlow;

use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::ObjectMeta;
use object_store::list::{PaginatedListOptions, PaginatedListStore};

use super::{Object, Store, parse};
use crate::error::{Error, Kind, Result, ResultExt};

/// What a directory's listing begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope<'a> {
    /// Everything below a directory.
    Below(&'a str),
    /// What in a directory, or below, begins with a name.
    Beginning(&'a str, &'a str),
}

impl Scope<'_> {
    const fn directory(&self) -> &str {
        match self {
            Self::Below(directory) | Self::Beginning(directory, _) => directory,
        }
    }

    fn key_prefix(&self) -> String {
        match self {
            Self::Below("") => String::new(),
            Self::Below(directory) => format!("{directory}/"),
            Self::Beginning(directory, name) => format!("{directory}/{name}"),
        }
    }
}

impl Store {
    /// All objects below the directory `prefix`, sorted by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>> {
        self.collect(Scope::Below(prefix), None).await
    }

    /// All objects below the directory `prefix` whose keys come after `after`, which need not be there nor below
    /// `prefix`, sorted by key: cheaper than all of them where the end of a long directory is wanted.
    pub async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<Object>> {
        self.collect(Scope::Below(prefix), Some(after)).await
    }

    /// All objects whose keys begin with `directory/name`, sorted by key.
    pub async fn list_beginning(&self, directory: &str, name: &str) -> Result<Vec<Object>> {
        self.collect(Scope::Beginning(directory, name), None).await
    }

    /// Show `see` the objects below the directory `prefix` whose keys come after `after`, by key, a page at a time,
    /// until it breaks off. No more than one page is held.
    pub async fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        mut see: impl FnMut(Vec<Object>) -> ControlFlow<()>,
    ) -> Result<()> {
        self.pages(Scope::Below(prefix), after, &mut see).await
    }

    async fn collect(&self, scope: Scope<'_>, after: Option<&str>) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        let mut keep = |mut page| {
            found.append(&mut page);
            ControlFlow::Continue(())
        };
        self.pages(scope, after, &mut keep).await?;
        // S3 promises the order; not every server of its kind keeps the promise.
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn pages(
        &self,
        scope: Scope<'_>,
        after: Option<&str>,
        see: &mut (impl FnMut(Vec<Object>) -> ControlFlow<()> + ?Sized),
    ) -> Result<()> {
        parse(scope.directory())?;
        let paged = match self.pages.clone() {
            Some(store) => self.remote_pages(&*store, scope, after, see).await,
            None => self.local_page(scope, after).await.map(|page| {
                let _ = see(page);
            }),
        };
        paged.map_err(absent_listing).with_context(|| self.doing("list", scope.directory()))
    }

    async fn remote_pages(
        &self,
        store: &dyn PaginatedListStore,
        scope: Scope<'_>,
        after: Option<&str>,
        see: &mut (impl FnMut(Vec<Object>) -> ControlFlow<()> + ?Sized),
    ) -> Result<()> {
        let prefix = scope.key_prefix();
        let mut token: Option<String> = None;
        loop {
            let page = || {
                let offset = after.filter(|_| token.is_none()).map(str::to_owned);
                let options = PaginatedListOptions {
                    offset,
                    page_token: token.clone(),
                    ..PaginatedListOptions::default()
                };
                store.list_paginated(Some(prefix.as_str()).filter(|prefix| !prefix.is_empty()), options)
            };
            let page = self.run("list", || self.doing("list", scope.directory()), page).await?;
            let next = page.page_token;
            let objects = page.result.objects.into_iter().map(object).collect::<Result<Vec<_>>>()?;
            // A server that ignores where to begin must not make keys come back that were asked to be left out.
            let wanted = objects.into_iter().filter(|object| after.is_none_or(|after| *object.key > *after));
            if see(wanted.collect()).is_break() || next.is_none() {
                return Ok(());
            }
            if next == token {
                return Err(Error::new(Kind::Unreachable, "the store gives the same page again and again"));
            }
            token = next;
        }
    }

    /// A local disk and memory know no pages. They answer or fail at once; the deadline is for a disk that hangs.
    async fn local_page(&self, scope: Scope<'_>, after: Option<&str>) -> Result<Vec<Object>> {
        let (directory, prefix) = (parse(scope.directory())?, scope.key_prefix());
        // The library looks at no file before an offset; what cannot be a key is filtered below.
        let offset = after.and_then(|after| parse(after).ok());
        let list = || async {
            let objects = match &offset {
                Some(offset) => self.objects.list_with_offset(Some(&directory), offset),
                None => self.objects.list(Some(&directory)),
            };
            // Many are held at a time: only what is wanted of them.
            objects.map_ok(object).try_collect::<Vec<_>>().await
        };
        let listed = self.run("list", || self.doing("list", scope.directory()), list).await?;
        let mut objects = listed.into_iter().collect::<Result<Vec<_>>>()?;
        objects.retain(|object| {
            object.key.starts_with(&prefix) && after.is_none_or(|after| *object.key > *after)
        });
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// The names of the directories right below the directory `prefix`, sorted.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>> {
        let path = parse(prefix)?;
        let list = || async { self.objects.list_with_delimiter(Some(&path)).await };
        let listed = self
            .run("list", || self.doing("list", prefix), list)
            .await
            .map_err(absent_listing)
            .with_context(|| self.doing("list", prefix))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// "Not found" is never an answer to a listing: an empty directory lists as empty. So it speaks of the bucket.
fn absent_listing(error: Error) -> Error {
    if error.kind() == Kind::NotFound {
        return error.as_kind(Kind::Unreachable).hint("does the bucket exist, and is its name right?");
    }
    error
}

fn object(meta: ObjectMeta) -> Result<Object> {
    let modified = Timestamp::new(meta.last_modified.timestamp(), 0)
        .map_err(|cause| Error::corrupt(format!("time of {}: {cause}", meta.location)))?;
    Ok(Object { key: meta.location.into(), size: meta.size, modified })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Location, Policy};

    async fn stores() -> Vec<(Store, Option<tempfile::TempDir>)> {
        let directory = tempfile::tempdir().unwrap();
        let local = Store::open(&Location::File(directory.path().to_owned()), Policy::default()).unwrap();
        let memory = Store::open(&Location::Memory, Policy::default()).unwrap();
        let stores = vec![(local, Some(directory)), (memory, None)];
        for (store, _) in &stores {
            for key in ["a/b/2", "a/b/1x", "a/b/1", "a/b1", "a/c/1", "b"] {
                store.put(key, vec![key.into()]).await.unwrap();
            }
        }
        stores
    }

    fn keys(objects: &[Object]) -> Vec<&str> {
        objects.iter().map(|object| object.key.as_str()).collect()
    }

    #[tokio::test]
    async fn listings_are_sorted_and_bounded() {
        for (store, _directory) in stores().await {
            assert_eq!(keys(&store.list("a").await.unwrap()), ["a/b/1", "a/b/1x", "a/b/2", "a/b1", "a/c/1"]);
            assert_eq!(keys(&store.list("a/b").await.unwrap()), ["a/b/1", "a/b/1x", "a/b/2"]);
            assert!(store.list("absent").await.unwrap().is_empty());
            for (after, expected) in [
                ("", &["a/b/1", "a/b/1x", "a/b/2"][..]),
                ("a/b/1", &["a/b/1x", "a/b/2"]),
                // Neither need it be there, nor be a key that could be.
                ("a/b/1\u{0}", &["a/b/1x", "a/b/2"]),
                ("a/b/1y//", &["a/b/2"]),
                ("b", &[]),
            ] {
                assert_eq!(keys(&store.list_after("a/b", after).await.unwrap()), expected, "{after:?}");
            }
            assert_eq!(keys(&store.list_beginning("a/b", "1").await.unwrap()), ["a/b/1", "a/b/1x"]);
            assert_eq!(store.list_directories("a").await.unwrap(), ["b", "c"]);
            let mut seen = 0;
            let see = |page: Vec<Object>| {
                seen += page.len();
                ControlFlow::Break(())
            };
            store.list_pages("a", Some("a/b/1"), see).await.unwrap();
            assert_eq!(seen, 4);
        }
    }
}
