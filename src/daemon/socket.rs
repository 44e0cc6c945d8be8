//! The Unix socket: `wal-push` asks here whether a file is durable. The process that holds its lock
//! is the one daemon.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use super::snapshot::Desk;
use crate::archive::{Answer, Request, is_final};
use crate::archiver::{Archiver, Fate, FileMark, Pusher};
use crate::disk::FileId;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Event, Now};
use crate::postgres::WalName;

/// A request is one line, and comes at once.
const LONGEST_REQUEST: u64 = 8 << 10;
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// How often a client that waits hears that we are alive.
const WORKING: Duration = Duration::from_secs(1);

/// The socket, and the lock that says whose it is.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Held while the process lives; the kernel lets go of it when that ends in any way.
    _lock: File,
}

impl Socket {
    /// Take the socket at `path`. Busy when another daemon has it; one that was left behind is replaced.
    pub(super) fn claim(path: &Path) -> Result<Self> {
        let lock_path = path.with_extension("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|cause| {
                Error::io("open", &lock_path, &cause).hint(
                    "does the directory of archive.socket exist, and belong to this user? systemd makes it with RuntimeDirectory=walproof",
                )
            })?;
        lock.try_lock().map_err(|_| {
            Error::new(Kind::Busy, format!("another daemon serves {}", path.display())).hint(
                "one daemon for a cluster is enough: is it running already (systemctl status walproof)?",
            )
        })?;
        remove_old(path)?;
        let listener = UnixListener::bind(path).map_err(|cause| Error::io("listen at", path, &cause))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(|cause| Error::io("protect", path, &cause))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Answer for ever.
    pub(super) async fn serve(self, desk: Arc<Desk>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let desk = Arc::clone(&desk);
                    tokio::spawn(async move {
                        // A client that left hears nothing more.
                        let _ = answer(stream, &desk).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the socket");
                    sleep(WORKING).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Remove the socket that a killed daemon left; nothing else that may lie there by a slip in the configuration.
fn remove_old(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(|cause| Error::io("remove the old socket", path, &cause))
        }
        Ok(_) => Err(Error::usage(format!("{} already exists, and is not a socket", path.display()))
            .hint("does archive.socket name a path that nothing else uses?")),
        Err(cause) => Err(Error::io("look at", path, &cause)),
    }
}

async fn answer(mut stream: UnixStream, desk: &Desk) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(LONGEST_REQUEST));
    timeout(REQUEST_PATIENCE, reader.read_line(&mut line)).await??;
    match Request::parse(&line) {
        Some(Request::Push { destination, .. }) if !desk.is_ours(&destination) => {
            let why = "the daemon serves a different repository than the configuration names; restart it";
            say(&mut write, &Answer::Declined(why.into())).await
        }
        Some(Request::Push { file, system_identifier, path, .. }) => {
            answer_push(&mut write, desk.archiver(), system_identifier, file, &path).await
        }
        Some(Request::Status) => {
            let snapshot = desk.fresh_snapshot().await;
            let text = serde_json::to_string(&snapshot).unwrap_or_default();
            write.write_all(format!("{text}\n").as_bytes()).await
        }
        Some(Request::BackupEnded(exists)) => {
            let ended = if exists { Event::BackupMade } else { Event::BackupFailed };
            desk.archiver().ledger().apply(ended, Now::read());
            write.write_all(b"noted\n").await
        }
        Some(Request::Expired) => {
            // What is there has changed as much as with a new backup.
            desk.archiver().ledger().apply(Event::BackupMade, Now::read());
            write.write_all(b"noted\n").await
        }
        Some(Request::Proven) => {
            // What was found harmed counts for nothing from now on.
            desk.archiver().ledger().apply(Event::BackupMade, Now::read());
            desk.verifications_handle().look();
            desk.drills_handle().look();
            write.write_all(b"noted\n").await
        }
        None => say(&mut write, &Answer::Declined("this daemon does not understand that".into())).await,
    }
}

async fn say(write: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> std::io::Result<()> {
    write.write_all(answer.to_line().as_bytes()).await
}

async fn answer_push(
    write: &mut (impl AsyncWriteExt + Unpin),
    archiver: &Archiver,
    system_identifier: u64,
    file: FileId,
    path: &Path,
) -> std::io::Result<()> {
    let (pusher, name, mark) = match ours(archiver, system_identifier, file, path) {
        Ok(found) => found,
        Err(why) => return say(write, &Answer::Declined(why.to_owned())).await,
    };
    let asked_at = std::time::Instant::now();
    let mut progress = pusher.progress();
    loop {
        match pusher.fate(&name, &mark) {
            // R1: durable in the repository, and this very file.
            Fate::Stored => return say(write, &Answer::Stored).await,
            Fate::Failed(failure) if is_final(failure.error.kind()) && failure.at >= asked_at => {
                return say(write, &Answer::Refused(failure.error)).await;
            }
            Fate::Failed(_) | Fate::Pending => pusher.hurry(&name),
        }
        tokio::select! {
            _ = progress.changed() => {}
            () = sleep(WORKING) => say(write, &Answer::Working).await?,
        }
    }
}

/// The file that a client asks for, if it is one of this daemon's cluster, seen as the client sees it.
fn ours(
    archiver: &Archiver,
    system_identifier: u64,
    file: FileId,
    path: &Path,
) -> Result<(Arc<Pusher>, WalName, FileMark), &'static str> {
    let pusher = archiver.pusher().ok_or("the daemon has not reached the repository yet")?;
    if pusher.system_identifier() != system_identifier {
        return Err("the daemon has not yet seen that the cluster was recreated");
    }
    let name: WalName =
        path.file_name().and_then(|name| name.to_str()?.parse().ok()).ok_or("that is not a WAL file")?;
    let same = |a: &Path, b: &Path| match (FileId::at(a), FileId::at(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    if !path.parent().is_some_and(|parent| same(parent, pusher.directory())) {
        return Err("the file is not in this daemon's pg_wal");
    }
    let mark = pusher.mark(&name).ok_or("the file is not there")?;
    if (FileId { device: mark.device, inode: mark.inode }) == file {
        Ok((pusher, name, mark))
    } else {
        Err("that is another file")
    }
}
