//! Taking a backup: the story.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::archiving::{Proof, prove_archiving, wait_for_wal};
use super::copy::{Copied, CopyRequest, copy};
use super::outside::outside_files;
use super::progress::Progress;
use crate::cluster::{DataDir, ServerInfo, Session, walk};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{BackupId, DirectoryRecord, Manifest, TablespaceRecord, Verbatim};
use crate::postgres::{BackupLabel, ControlFile, PgTime};
use crate::repository::{Lease, Namespace, Protection, Purpose, Repository, WalFrom};

/// What to back up and how.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The server's data directory.
    pub data_dir: PathBuf,
    /// How to reach the server.
    pub conninfo: String,
    /// Threads that read, compress and encrypt.
    pub concurrency: usize,
    /// Bytes a second read from the data directory; 0 for no limit.
    pub max_rate: u64,
    /// How long a segment that was just finished may take to reach the repository.
    pub archive_patience: Duration,
    /// Counts bytes read.
    pub progress: Arc<Progress>,
}

/// Take a backup. It exists when this returns, and if this fails it does not.
pub async fn take(namespace: &Namespace, request: &BackupRequest) -> Result<Manifest> {
    let data_dir = DataDir::open(&request.data_dir)?;
    let control = data_dir.control()?;
    let session = Session::connect(&request.conninfo, "walproof backup-push").await?;
    let info = session.info().await?;
    session.must_run_in(&info, &data_dir, &control).await?;
    let repository = namespace.open(control.system_identifier).await.map_err(Error::absence_is_impossible)?;
    // Until the backup has a start of its own, this is older.
    let wal = vec![WalFrom { timeline: control.timeline, start: control.redo }];
    let lease = Lease::take(&repository, Purpose::Backup, Protection { backups: Vec::new(), wal }).await?;
    let manifest = tokio::select! {
        // R32: another one may have taken over.
        biased;
        lost = lease.lost() => Err(lost),
        taken = take_with_lease(&repository, &lease, &session, &info, &data_dir, request) => taken,
    };
    let released = lease.release().await;
    let manifest = manifest?;
    if let Err(error) = released {
        tracing::warn!(%error, "the backup is done, its lease is left to age");
    }
    session.close().await;
    Ok(manifest)
}

async fn take_with_lease(
    repository: &Repository,
    lease: &Lease,
    session: &Session,
    info: &ServerInfo,
    data_dir: &DataDir,
    request: &BackupRequest,
) -> Result<Manifest> {
    let id = BackupId::generate(info.time.timestamp())?;
    let started_at = session.current_time().await?;
    let proof = Proof::begin(session, info).await?;
    let label = format!("walproof {id}");
    let (start_lsn, ()) = tokio::try_join!(
        session.backup_start(&label, true),
        prove_archiving(repository, proof.as_ref(), request.archive_patience),
    )?;
    tracing::info!(%id, %start_lsn, "backup started");
    let control = data_dir.control()?;
    let (path, control_again) = (data_dir.path().to_owned(), control.clone());
    let walked = tokio::task::spawn_blocking(move || walk(&path, &control_again))
        .await
        .map_err(|cause| Error::new(Kind::Other, format!("list the data directory: {cause}")))??;
    for (path, reason) in &walked.skipped {
        tracing::warn!(path = %path.display(), reason, "not backed up");
    }
    let copied = copy(CopyRequest {
        repository,
        session,
        id: &id,
        data_dir,
        control: &control,
        walk: &walked,
        start: start_lsn,
        concurrency: request.concurrency,
        max_rate: request.max_rate,
        progress: Arc::clone(&request.progress),
    })
    .await?;
    let stop = session.backup_stop().await?;
    let finished_at = session.current_time().await?;
    let label = BackupLabel::parse(&stop.label)?;
    tracing::info!(%id, stop_lsn = %stop.stop, "backup stopped, waiting until its WAL is in the repository");
    wait_for_wal(repository, label.timeline, label.start, stop.stop).await?;
    let manifest = manifest(
        repository,
        info,
        &control,
        walked,
        copied,
        &label,
        (id, started_at, finished_at, stop.stop),
    );
    repository.check_still_there().await.context("see that the repository is still the same")?;
    // The commit point.
    lease.commit(&manifest).await?;
    Ok(manifest)
}

type When = (BackupId, PgTime, PgTime, crate::postgres::Lsn);

fn manifest(
    repository: &Repository,
    info: &ServerInfo,
    control: &ControlFile,
    walk: crate::cluster::Walk,
    copied: Copied,
    label: &BackupLabel,
    (id, started_at, finished_at, stop_lsn): When,
) -> Manifest {
    let directory = |entry: crate::cluster::DirEntry| DirectoryRecord {
        path: entry.path.as_path().into(),
        mode: entry.mode,
    };
    let root = DirectoryRecord { path: Verbatim::default(), mode: walk.mode };
    let tablespaces = walk.tablespaces.iter().filter(|tablespace| !tablespace.in_place);
    Manifest {
        format: crate::seal::VERSION,
        id,
        cluster: repository.identity().cluster.clone(),
        system_identifier: control.system_identifier,
        pg_version_num: info.version_num,
        catalog_version: control.catalog_version,
        started_at,
        finished_at,
        start_lsn: label.start,
        stop_lsn,
        timeline: label.timeline,
        page_checksums: control.data_checksum_version != 0,
        from_standby: info.in_recovery,
        backup_label: label.text.clone(),
        tablespaces: tablespaces
            .map(|tablespace| TablespaceRecord {
                oid: tablespace.oid,
                location: tablespace.location.as_path().into(),
            })
            .collect(),
        directories: std::iter::once(root).chain(walk.directories.into_iter().map(directory)).collect(),
        parts: copied.parts,
        packs: copied.packs,
        pack_list_bytes: copied.pack_list_bytes,
        files: copied.files,
        size_bytes: copied.size_bytes,
        stored_bytes: copied.stored_bytes,
        new_bytes: copied.new_bytes,
        page_errors: copied.page_errors,
        outside_files: outside_files(info),
    }
}

/// R10: it is set up to archive.
pub(super) fn needs_archiving(info: &ServerInfo) -> Result<()> {
    let by_command = !info.archive_command.is_empty() && info.archive_command != "(disabled)";
    let configured = by_command || !info.archive_library.is_empty();
    if info.archive_mode == "off" || !configured {
        return Err(Error::server(
            "the server does not archive WAL, and a backup is worth nothing without it",
        )
        .hint(
            "set archive_mode = on and archive_command = 'walproof wal-push %p' (the first needs a restart)",
        ));
    }
    if info.wal_level == "minimal" {
        return Err(Error::server("wal_level is minimal: the WAL does not hold enough to restore"))
            .hint("set wal_level = replica and restart the server");
    }
    Ok(())
}
