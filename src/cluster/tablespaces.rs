//! Whether the tablespaces that the server has are there. One whose disk is not mounted looks like an empty one, and the
//! server starts and runs without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::data_dir::DataDir;
use super::session::{Session, column};
use super::tree::Walk;
use crate::error::{Error, Result};
use crate::postgres::ControlFile;

/// `DROP TABLESPACE` removes the directory just before it commits.
const DROP_PAUSE: Duration = Duration::from_secs(1);

/// The server's tablespaces by oid, each with its directory in the data directory; but for those that are always part of
/// that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespaces(BTreeMap<u32, PathBuf>);

impl Session {
    /// The tablespaces that the server, whose control file is `control`, has now.
    pub async fn tablespaces(&self, control: &ControlFile) -> Result<Tablespaces> {
        let directory = |oid| Path::new("pg_tblspc").join(format!("{oid}")).join(version_dir(control));
        let oids = self.tablespace_oids().await?;
        Ok(Tablespaces(oids.into_iter().map(|oid| (oid, directory(oid))).collect()))
    }

    async fn tablespace_oids(&self) -> Result<Vec<u32>> {
        // pg_default and pg_global, which may be renamed (pg_tablespace.dat).
        let sql =
            "SELECT COALESCE(array_agg(oid), '{}') AS oids FROM pg_tablespace WHERE oid NOT IN (1663, 1664)";
        column(&self.row("ask for the tablespaces", sql, &[]).await?, "oids")
    }

    /// See that `data_dir` has all of `known` that the server has still. An error of kind `Server` if it has not.
    pub async fn must_have(&self, known: &Tablespaces, data_dir: &DataDir) -> Result<()> {
        self.none_absent(known, |path| data_dir.path().join(path).is_dir()).await
    }

    /// The same of a list of the data directory.
    pub async fn must_have_listed(&self, known: &Tablespaces, walk: &Walk) -> Result<()> {
        self.none_absent(known, |path| walk.directories.iter().any(|entry| entry.path == path)).await
    }

    async fn none_absent(&self, known: &Tablespaces, is_there: impl Fn(&Path) -> bool) -> Result<()> {
        let absent: Vec<_> = known.0.iter().filter(|(_, path)| !is_there(path)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(DROP_PAUSE).await;
        let still = self.tablespace_oids().await?;
        absent.iter().find(|(oid, _)| still.contains(oid)).map_or(Ok(()), |(oid, path)| {
            Err(Error::server(format!("the files of tablespace {oid} are not there: {}", path.display()))
                .hint("is its disk mounted? the server starts without it"))
        })
    }
}

/// In each tablespace, the directory of this cluster.
pub(super) fn version_dir(control: &ControlFile) -> String {
    format!("PG_{}_{}", control.major, control.catalog_version)
}
