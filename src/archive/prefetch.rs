//! The prefetcher: while recovery replays one segment, it gets the next ones, opens and checks them on another core, and
//! lays them ready in the spool. It ends by itself soon after the last call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::ahead::{Call, Label, Ready, answer};
use super::fetch::check_content;
use super::spool::Spool;
use super::upcoming::{FRESH, Upcoming};
use crate::error::{Error, Kind, Result};
use crate::postgres::{SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::{Namespace, Repository, WalFile};

/// Segments that are held ready at most.
const MOST_AHEAD: usize = 8;
/// And at first: a recovery that replays slowly, or ends soon, has little fetched in vain.
const FIRST_AHEAD: usize = 2;
/// Bytes that are held ready at most: a prefetcher for segments that are larger lays none ready.
const BUDGET: u64 = 256 << 20;
/// After the last call that found something.
const LIFE: Duration = Duration::from_secs(15);
/// A call that is not made within this time does not count.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_CALL: u64 = 512;

/// What a prefetcher is for.
#[derive(Debug)]
pub struct Prefetch<'a> {
    /// The cluster's place in the store.
    pub namespace: &'a Namespace,
    /// Its system identifier.
    pub system_identifier: u64,
    /// Where segments are laid ready.
    pub spool: &'a Spool,
    /// The segment that recovery has.
    pub at: SegmentName,
    /// The timeline that recovery follows, where it is known.
    pub follows: Option<TimelineId>,
    /// Segments that are fetched at a time.
    pub concurrency: usize,
}

/// Serve the calls of one recovery until it makes no more. One process at a time does that for a
/// spool; others exit at once.
pub async fn prefetch(prefetch: Prefetch<'_>) -> Result<()> {
    let spool = prefetch.spool;
    let Some(_lock) = spool.lock()? else { return Ok(()) };
    // Whatever an earlier one left: it may be of a repository that is no more.
    spool.clear();
    spool.sweep();
    let repository = prefetch.namespace.open(prefetch.system_identifier).await?;
    spool.keep_identity(repository.sealed_identity())?;
    let (socket, _directory) = spool.socket()?;
    let listener = UnixListener::bind(&socket).map_err(|cause| Error::io("listen at", &socket, &cause))?;
    let state = State {
        at: prefetch.at,
        follows: prefetch.follows,
        depth: FIRST_AHEAD,
        last: Instant::now(),
        shelf: BTreeMap::new(),
        failed: BTreeSet::new(),
        missed: false,
    };
    let desk = Arc::new(watch::Sender::new(state));
    let result = tokio::select! {
        result = fill(&repository, &prefetch, &desk) => result,
        result = serve(&listener, &desk) => result,
        () = until_unused(&desk) => Ok(()),
    };
    spool.clear();
    result
}

/// What callers and fetches know together.
#[derive(Debug)]
struct State {
    /// The segment that recovery has.
    at: SegmentName,
    follows: Option<TimelineId>,
    /// Segments to hold ready.
    depth: usize,
    /// When a call found something, or recovery moved on.
    last: Instant,
    /// What lies ready, or is on its way: `None`.
    shelf: BTreeMap<SegmentName, Option<Ready>>,
    /// What could not be had since the last call.
    failed: BTreeSet<SegmentName>,
    /// Recovery has asked for something that was not on its way.
    missed: bool,
}

impl State {
    fn is_coming(&self, segment: SegmentName) -> bool {
        matches!(self.shelf.get(&segment), Some(None))
    }

    fn move_to(&mut self, segment: SegmentName, follows: Option<TimelineId>) {
        self.at = segment;
        self.follows = follows.or(self.follows);
        self.failed.clear();
        self.last = Instant::now();
    }

    /// Hand out a segment that lies ready; recovery goes on behind it.
    fn hand_out(&mut self, call: &Call) -> Option<Ready> {
        let ready = match self.shelf.remove(&call.segment) {
            Some(Some(ready)) => ready,
            Some(None) => {
                self.shelf.insert(call.segment, None);
                return None;
            }
            None => return None,
        };
        self.depth = (self.depth * 2).min(MOST_AHEAD);
        self.move_to(call.segment, call.follows);
        Some(ready)
    }
}

type Desk = Arc<watch::Sender<State>>;

async fn serve(listener: &UnixListener, desk: &Desk) -> Result<()> {
    let mut calls = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        let (stream, _) =
            accepted.map_err(|cause| Error::new(Kind::Other, format!("accept a call: {cause}")))?;
        while calls.try_join_next().is_some() {}
        calls.spawn(take_call(stream, Arc::clone(desk)));
    }
}

/// A caller that hangs up, or says what nobody understands, does the work itself.
async fn take_call(mut stream: UnixStream, desk: Desk) {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(LONGEST_CALL));
    let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await;
    let Some(call) = read.ok().and_then(Result::ok).and_then(|_| Call::parse(&line)) else { return };
    let ready = if call.wanted {
        wanted(&call, &desk).await
    } else {
        desk.send_modify(|state| state.move_to(call.segment, call.follows));
        None
    };
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(answer(ready.as_ref()).as_bytes())).await;
}

async fn wanted(call: &Call, desk: &Desk) -> Option<Ready> {
    let mut changes = desk.subscribe();
    // However it ends: what has not come by then is not handed out.
    let _ =
        tokio::time::timeout(call.patience, changes.wait_for(|state| !state.is_coming(call.segment))).await;
    let mut ready = None;
    desk.send_modify(|state| {
        state.failed.clear();
        ready = state.hand_out(call);
        state.missed |= ready.is_none();
    });
    ready
}

/// Keep ready what recovery will ask for next.
async fn fill(repository: &Repository, prefetch: &Prefetch<'_>, desk: &Desk) -> Result<()> {
    let size = repository.identity().segment_size()?;
    let most = usize::try_from(BUDGET / size.bytes()).unwrap_or(MOST_AHEAD).min(MOST_AHEAD);
    let fetching = Arc::new(Semaphore::new(prefetch.concurrency.max(1)));
    let opening = Arc::new(Semaphore::new(other_cores()));
    let (mut upcoming, mut fetches) = (Upcoming::default(), JoinSet::new());
    let mut changes = desk.subscribe();
    loop {
        let (at, follows, depth, missed) = {
            let state = changes.borrow_and_update();
            (state.at, state.follows, state.depth.min(most), state.missed)
        };
        if missed {
            upcoming.look_again();
            quietly(desk, |state| state.missed = false);
        }
        drop_passed(prefetch.spool, desk, at, size);
        let next = match upcoming.after(repository, at, follows, depth).await {
            Ok(next) => {
                drop_others(prefetch.spool, desk, &next);
                next
            }
            Err(error) if error.kind().is_unreadable() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "cannot see what comes next");
                Vec::new()
            }
        };
        for file in next {
            let Some(segment) = file.name.segment() else { break };
            let (known, failed) = {
                let state = desk.borrow();
                (state.shelf.contains_key(&segment), state.failed.contains(&segment))
            };
            if failed || desk.borrow().shelf.len() >= most {
                break;
            }
            if !known {
                quietly(desk, |state| drop(state.shelf.insert(segment, None)));
                let (repository, spool) = (repository.clone(), prefetch.spool.clone());
                let fetch = Fetch { repository, spool, file, segment };
                fetches.spawn(fetch.run(Arc::clone(desk), Arc::clone(&fetching), Arc::clone(&opening)));
            }
        }
        while fetches.try_join_next().is_some() {}
        // What lies ready counts as long as the repository does, calls or not.
        let _ = tokio::time::timeout(FRESH, changes.changed()).await;
    }
}

/// Change what nobody waits for.
fn quietly(desk: &Desk, change: impl FnOnce(&mut State)) {
    desk.send_if_modified(|state| {
        change(state);
        false
    });
}

/// Until no call has found anything for a while.
async fn until_unused(desk: &Desk) {
    loop {
        let last = desk.borrow().last;
        tokio::time::sleep_until((last + LIFE).into()).await;
        if desk.borrow().last == last {
            return;
        }
    }
}

/// Forget what recovery will not ask for any more; it may also have begun again, or turned to another timeline.
fn drop_passed(spool: &Spool, desk: &Desk, at: SegmentName, size: SegmentSize) {
    let number = at.number(size);
    let soon = number + 1..=number + MOST_AHEAD as u64;
    keep_ready(spool, desk, |Label { segment, .. }| {
        soon.contains(&segment.number(size)) && segment.timeline >= at.timeline
    });
}

/// Forget what lies ready and is not what the repository, listed anew, has next: since it was fetched, another content of
/// the segment was archived, or the segment on a newer timeline.
fn drop_others(spool: &Spool, desk: &Desk, next: &[WalFile]) {
    keep_ready(spool, desk, |label| {
        next.iter().any(|file| file.name.segment() == Some(label.segment) && file.digest == label.digest)
    });
}

/// Of what lies ready keep this alone. What is on its way is dealt with when it has come.
fn keep_ready(spool: &Spool, desk: &Desk, kept: impl Fn(&Label) -> bool) {
    quietly(desk, |state| {
        state.shelf.retain(|_, ready| {
            let Some(ready) = ready.as_ref().filter(|ready| !kept(&ready.label)) else { return true };
            spool.forget(&ready.label.to_string());
            false
        });
    });
}

/// PostgreSQL replays on one.
fn other_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).clamp(1, 4)
}

/// One segment: store -> spool.
struct Fetch {
    repository: Repository,
    spool: Spool,
    file: WalFile,
    segment: SegmentName,
}

impl Fetch {
    async fn run(self, desk: Desk, fetching: Arc<Semaphore>, opening: Arc<Semaphore>) {
        let segment = self.segment;
        let fetched = self.lay_ready(&fetching, &opening).await;
        desk.send_modify(|state| match fetched {
            Ok(ready) => drop(state.shelf.insert(segment, Some(ready))),
            Err(error) => {
                tracing::debug!(%error, %segment, "cannot fetch ahead");
                state.shelf.remove(&segment);
                state.failed.insert(segment);
            }
        });
    }

    async fn lay_ready(self, fetching: &Semaphore, opening: &Semaphore) -> Result<Ready> {
        let closed = |_| Error::new(Kind::Other, "the prefetcher ends");
        let sealed = {
            let _turn = fetching.acquire().await.map_err(closed)?;
            self.repository.get_wal_sealed(&self.file).await?
        };
        let _turn = opening.acquire().await.map_err(closed)?;
        let open = move || {
            let (_, plain) = self.repository.open_wal_file(&self.file, &sealed)?;
            let identity = self.repository.identity();
            check_content(&WalName::Segment(self.segment), identity.system_identifier, &plain)?;
            let label = Label::of(identity, self.segment, self.file.digest)?;
            let stamp = self.spool.lay_ready(&label.to_string(), &plain)?;
            Ok(Ready { label, stamp })
        };
        let opened = tokio::task::spawn_blocking(open).await;
        opened.map_err(|_| Error::new(Kind::Other, "a thread that opens segments died"))?
    }
}
