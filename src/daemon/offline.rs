//! What the repository alone tells, where no daemon runs: on a staging host, or when the daemon is down.

use super::drills;
use super::verifications;
use crate::error::Result;
use crate::postgres::PgTime;
use crate::repository::Repository;
use crate::status::{
    Daemon, Estimates, Promises, Role, Server, Snapshot, Store, Teller, Verifications, Wal, restorable,
};
use crate::window::{Branch, Catalog, Records, WalTimes, look};

/// What is to be expected of this host, where no daemon answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A daemon has served here, and cannot be asked now, for this reason.
    DaemonMissing(String),
    /// The cluster's host, where no daemon serves.
    WithoutDaemon,
    /// Another host, such as one for rehearsals.
    Elsewhere,
}

/// The snapshot that follows from the repository. It claims no RPO: how far the server has flushed is not known here.
pub async fn repository_snapshot(
    repository: &Repository,
    promises: Promises,
    host: Host,
) -> Result<Snapshot> {
    let listing = repository.list().await?;
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await?;
    let branch = window.last_writer();
    let newest = branch.and_then(Branch::farthest);
    let (daemon, daemon_error) = match host {
        Host::DaemonMissing(why) => (Daemon::Missing, Some(why)),
        Host::WithoutDaemon => (Daemon::Absent, None),
        Host::Elsewhere => (Daemon::NotHere, None),
    };
    let identity = repository.identity();
    let known = drills::read(repository).await;
    let (rto_estimate_seconds, rto_after_backup_seconds) =
        branch.map(|branch| known.estimate(&catalog, &branch.history)).unwrap_or_default();
    let snapshot = Snapshot {
        taken_at: PgTime::now(),
        cluster: identity.cluster.to_string(),
        promises,
        teller: Teller { daemon, daemon_since: None, daemon_error, obstacle: None },
        server: Server {
            system_identifier: identity.system_identifier.to_string(),
            pg_version: catalog.backups.last().map(|backup| backup.pg_version()).unwrap_or_default(),
            timeline: branch.map(|branch| branch.timeline().get()),
            role: Role::Down,
            archive_mode: String::new(),
            calls_us: false,
            archiver_failure: None,
            server_error: None,
        },
        wal: Wal {
            stored: newest.map(|span| span.record_end),
            archived: newest.map(|span| span.end),
            gap_segments: branch.map_or(0, |branch| gap_segments(&catalog, branch)),
            last_push: catalog.last_push(),
            ..Wal::default()
        },
        estimates: Estimates { rpo_seconds: None, rto_estimate_seconds, rto_after_backup_seconds },
        backups: restorable::backups(&catalog, branch, |_| true).with_failure(
            Some(&catalog),
            None,
            PgTime::now(),
        ),
        window: restorable::window(&window, branch),
        verifications: verifications::read(repository, &Verifications::default()).await,
        retention: restorable::retention(&catalog, &window, promises.retention_window, PgTime::now()),
        drills: known.summary(PgTime::now(), promises.drill_every),
        store: Store {
            repository: repository.store().to_string(),
            repository_bytes: Some(restorable::bytes(catalog.usage)),
            store_up: Some(true),
            survey_error: None,
        },
        counts: None,
        problems: Vec::new(),
    };
    Ok(snapshot.judged())
}

/// Segments that are missing behind what can be reached although later ones are there.
fn gap_segments(catalog: &Catalog, branch: &Branch) -> u64 {
    let size = catalog.segment_size;
    let farthest = branch.farthest().map(|span| span.end);
    let pairs = branch.spans.iter().zip(branch.spans.iter().skip(1));
    let behind = pairs.filter(|(before, _)| Some(before.end) >= farthest);
    behind.map(|(before, after)| after.begin.offset_from(before.end.segment_start(size)) / size.bytes()).sum()
}
