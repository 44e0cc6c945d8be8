//! Pushing written data to the disk while the rest is still being fetched: the disk works all along, and the last
//! sync finds little to do.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::directory::Target;
use crate::error::{Error, Kind, Result};

/// The pause between two syncs: a disk that is idle for longer between them is what the restore waits for in the end.
const PAUSE: Duration = Duration::from_millis(10);

/// A thread that syncs until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Flusher {
    stop: Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Flusher {
    pub(super) fn start(target: Arc<Target>) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                target.sync()?;
            }
            Ok(())
        });
        Self { stop, thread }
    }

    /// Stop; an error when a sync failed.
    pub(super) fn stop(self) -> Result<()> {
        drop(self.stop);
        self.thread.join().map_err(|_| Error::new(Kind::Other, "the flushing thread died"))?
    }
}
