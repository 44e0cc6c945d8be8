//! Taking a backup: the story.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::copy::{Copied, CopyRequest, copy};
use super::leave_out::leave_out;
use super::outside::outside_files;
use super::progress::Progress;
use super::unread::{Moment, Unread};
use crate::arrivals::{Arrivals, Proof, prove_archiving, wait_for_wal};
use crate::cluster::{DataDir, DirEntry, ServerInfo, Session, Walk, unlogged_since, walk};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{BackupId, DirectoryRecord, Manifest, TablespaceRecord, WalRecord};
use crate::format::{Protection, Purpose, WalFrom};
use crate::postgres::{BackupLabel, ControlFile, PgTime, TimelineId, Verbatim};
use crate::repository::{Found, Lease, Namespace, Repository};

/// What to back up and how.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The server's data directory.
    pub data_dir: PathBuf,
    /// How to reach the server.
    pub conninfo: String,
    /// How to reach a standby's primary, to ask it to finish a segment.
    pub primary_conninfo: Option<String>,
    /// Threads that read, compress and encrypt.
    pub concurrency: usize,
    /// Bytes a second read from the data directory; 0 for no limit.
    pub max_rate: u64,
    /// How long a segment that was just finished may take to reach the repository.
    pub archive_patience: Duration,
    /// Reuse nothing.
    pub full: bool,
    /// How long a file that does not change may stay unread.
    pub reread: Duration,
    /// Counts bytes read.
    pub progress: Arc<Progress>,
    /// Whether it has begun: until it holds the lease, another one may be under way instead.
    pub begun: Arc<AtomicBool>,
}

/// Take a backup. It exists when this returns, and if this fails it does not.
pub async fn take(namespace: &Namespace, request: &BackupRequest) -> Result<Manifest> {
    let data_dir = DataDir::open(&request.data_dir)?;
    let control = data_dir.control()?;
    let session = Session::connect(&request.conninfo, "walproof backup-push").await?;
    let info = session.info().await?;
    session.must_run_in(&info, &data_dir, &control).await?;
    let repository = namespace.open(control.system_identifier).await.map_err(Error::absence_is_impossible)?;
    let id = BackupId::generate(info.time.timestamp())?;
    let found =
        if request.full { Found::default() } else { find_base(&repository, &data_dir, &info).await? };
    // Until the backup has a start of its own, this is older.
    let wal = vec![WalFrom { timeline: control.timeline, start: control.redo }];
    let backups = found.backups().chain([&id]).cloned().collect();
    let lease = Lease::take(&repository, Purpose::Backup, Protection { backups, wal }).await?;
    request.begun.store(true, Ordering::Relaxed);
    repository.note_backup_begun().await;
    let run = Run { repository: &repository, session: &session, info: &info, data_dir: &data_dir };
    let taken = tokio::select! {
        // R32: another one may have taken over.
        biased;
        lost = lease.lost() => Err(lost),
        taken = run.take(id, &found, request) => taken,
    };
    let committed = match taken {
        // The commit point. It looks after the lease by itself: a manifest that came too late is taken back, and that must
        // not be cut short.
        Ok(manifest) => lease.commit(&manifest).await.map(|()| manifest),
        Err(error) => Err(error),
    };
    let released = lease.release().await;
    let manifest = committed?;
    if let Err(error) = released {
        tracing::warn!(%error, "the backup is done; its lease is left to expire");
    }
    session.close().await;
    Ok(manifest)
}

/// The newest backup on the lineage of the server's timeline.
async fn find_base(repository: &Repository, data_dir: &DataDir, info: &ServerInfo) -> Result<Found> {
    let history = data_dir.history(info.timeline);
    let suits = |manifest: &Manifest| {
        let stretch = history.stretch(manifest.timeline);
        stretch.is_some_and(|stretch| stretch.end.is_none_or(|end| manifest.stop_lsn <= end))
    };
    repository.find_base(suits).await.context("look for a backup to reuse")
}

/// What a backup works with, while its lease is held.
struct Run<'a> {
    repository: &'a Repository,
    session: &'a Session,
    info: &'a ServerInfo,
    data_dir: &'a DataDir,
}

impl Run<'_> {
    /// All but the manifest is stored.
    async fn take(&self, id: BackupId, found: &Found, request: &BackupRequest) -> Result<Manifest> {
        let Self { repository, session, info, data_dir } = *self;
        let started_at = session.current_time().await?;
        let seed = repository.identity().page_seed()?;
        let mut moment = Moment::new(seed, info, data_dir.control()?.has_page_checksums(), started_at);
        let arrivals = Arrivals::new(repository, info, data_dir.path());
        let proof = Proof::begin(session, info).await?;
        let label = format!("walproof {id}");
        let (start_lsn, (), base) = tokio::try_join!(
            session.backup_start(&label, true),
            prove_archiving(&arrivals, proof.as_ref(), request.archive_patience),
            repository.confirm_base(found),
        )?;
        let base_id = base.manifest.as_ref().map(|manifest| manifest.id.clone());
        let reused = base_id.as_ref().map_or("nothing", BackupId::as_str);
        tracing::info!(%id, %start_lsn, base = reused, "backup started");
        let control = data_dir.control()?;
        if info.in_recovery {
            stayed_on(control.timeline, &control)?;
        }
        let tablespaces = session.tablespaces(&control).await?;
        let (path, control_again) = (data_dir.path().to_owned(), control.clone());
        let walked = tokio::task::spawn_blocking(move || walk(&path, &control_again))
            .await
            .map_err(|cause| Error::new(Kind::Other, format!("list the data directory: {cause}")))??;
        session.must_have_listed(&tablespaces, &walked).await?;
        let walked = Arc::new(walked);
        moment.look_at_file_systems(data_dir.path(), &walked);
        let unread = Unread::new(moment, base.manifest.as_ref(), start_lsn, request.reread);
        for (path, reason) in &walked.skipped {
            tracing::warn!(path = %path.display(), reason, "not backed up");
        }
        let mut copied = copy(CopyRequest {
            repository,
            session,
            id: &id,
            data_dir,
            control: &control,
            walk: Arc::clone(&walked),
            start: start_lsn,
            concurrency: request.concurrency,
            max_rate: request.max_rate,
            progress: Arc::clone(&request.progress),
            base,
            unread,
        })
        .await?;
        // What went away during the copy was taken for dropped.
        session.must_have(&tablespaces, data_dir).await?;
        let stop = session.backup_stop().await?;
        let finished_at = session.current_time().await?;
        let label = BackupLabel::parse(&stop.label)?;
        tracing::info!(%id, stop_lsn = %stop.stop, "backup stopped, waiting until its WAL is in the repository");
        if info.in_recovery {
            stayed_on(label.timeline, &data_dir.control()?)?;
            finish_on_primary(request.primary_conninfo.as_deref(), info).await;
        }
        let wal = wait_for_wal(&arrivals, label.timeline, label.start, stop.stop).await?;
        // As late as can be: an index may take hours to build.
        let late = tokio::task::block_in_place(|| unlogged_since(data_dir.path(), &walked))?;
        leave_out(repository, &id, &mut copied, &late).await?;
        let manifest = manifest(
            repository,
            info,
            &control,
            &walked,
            (copied, base_id),
            (&label, wal),
            (id, started_at, finished_at, stop.stop),
        );
        repository.check_still_there().await.context("see that the repository is still the same")?;
        Ok(manifest)
    }
}

/// The server says where a standby's backup stops, but not on which timeline. `pg_control` does: it is where it must recover to.
fn stayed_on(start: TimelineId, control: &ControlFile) -> Result<()> {
    let now = control.min_recovery_timeline;
    // 0: not known yet.
    if now <= start.get() {
        return Ok(());
    }
    let text = format!(
        "the standby has followed a switch to timeline {now}, and the backup begins on timeline {start}"
    );
    Err(Error::server(text).hint("run it again, after the first checkpoint on the new timeline"))
}

/// The last segment of a standby's backup is its primary's to finish. If that cannot be asked to, the backup waits until it
/// does so by itself.
async fn finish_on_primary(conninfo: Option<&str>, info: &ServerInfo) {
    let Some(conninfo) = conninfo else {
        tracing::warn!(
            "the backup's WAL is complete when the primary finishes its segment: run pg_switch_wal() there, or set \
             cluster.primary_conninfo"
        );
        return;
    };
    let asked = async {
        let primary = Session::connect(conninfo, "walproof backup-push").await?;
        let found = primary.system_identifier().await?;
        if found != info.system_identifier {
            return Err(Error::server(format!("it is the cluster with system identifier {found}")));
        }
        // A switch does nothing when nothing was written since the last one.
        primary.emit_heartbeat("walproof", "backup").await?;
        primary.switch_wal().await?;
        primary.close().await;
        Ok(())
    };
    if let Err(error) = asked.await {
        tracing::warn!(%error, "cannot ask the primary (cluster.primary_conninfo) to finish a segment; waiting until it does so by itself");
    }
}

type When = (BackupId, PgTime, PgTime, crate::postgres::Lsn);

fn manifest(
    repository: &Repository,
    info: &ServerInfo,
    control: &ControlFile,
    walk: &Walk,
    (copied, base): (Copied, Option<BackupId>),
    (label, wal): (&BackupLabel, Vec<WalRecord>),
    (id, started_at, finished_at, stop_lsn): When,
) -> Manifest {
    let directory =
        |entry: &DirEntry| DirectoryRecord { path: entry.path.as_path().into(), mode: entry.mode };
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
        wal,
        superuser: info.bootstrap_superuser.clone(),
        page_checksums: control.has_page_checksums(),
        from_standby: info.in_recovery,
        backup_label: label.text.clone(),
        tablespaces: tablespaces
            .map(|tablespace| TablespaceRecord {
                oid: tablespace.oid,
                location: tablespace.location.as_path().into(),
            })
            .collect(),
        directories: std::iter::once(root).chain(walk.directories.iter().map(directory)).collect(),
        parts: copied.parts,
        packs: copied.packs,
        pack_list_bytes: copied.pack_list_bytes,
        files: copied.files,
        size_bytes: copied.size_bytes,
        stored_bytes: copied.stored_bytes,
        new_bytes: copied.new_bytes,
        base,
        reused_bytes: copied.reused_bytes,
        rewritten_bytes: copied.rewritten_bytes,
        unread_bytes: copied.unread_bytes,
        page_errors: copied.page_errors,
        outside_files: outside_files(info),
    }
}
