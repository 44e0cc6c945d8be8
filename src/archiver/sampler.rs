//! The one connection to the server: how far WAL is flushed, and heartbeats. Everybody else asks this task, so that a
//! server that hangs holds nothing up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::handle::LedgerHandle;
use super::left_behind::left_behind;
use super::setup::Setup;
use crate::cluster::{DataDir, Session, WalStatus, must_run_in};
use crate::error::{Error, Kind, Result};
use crate::format::{CANARY_PREFIX, Identity};
use crate::ledger::{Event, Ledger, Now, Sample, ServerFacts, Wanted};
use crate::postgres::PgTime;

/// Longest and shortest time between two samples.
const SLOWEST: Duration = Duration::from_secs(1);
const FASTEST: Duration = Duration::from_millis(100);
/// A question that takes longer means that the server hangs; the connection is made anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions about settings, which a reload changes.
const SETTINGS: Duration = Duration::from_secs(10);
/// Between two tries to connect.
const RECONNECT: Duration = Duration::from_secs(1);

/// Asks the task for a fresh sample.
#[derive(Debug, Clone)]
pub(super) struct ServerHandle(mpsc::Sender<oneshot::Sender<Option<Sample>>>);

/// What the task listens to.
pub(super) type Asks = mpsc::Receiver<oneshot::Sender<Option<Sample>>>;

impl ServerHandle {
    pub(super) fn new() -> (Self, Asks) {
        let (sender, asks) = mpsc::channel(16);
        (Self(sender), asks)
    }

    /// What the server says now, if it says so within `patience`.
    pub(super) async fn fresh(&self, patience: Duration) -> Option<Sample> {
        let (answer, answered) = oneshot::channel();
        let ask = async {
            self.0.send(answer).await.ok()?;
            answered.await.ok()?
        };
        timeout(patience, ask).await.ok()?
    }
}

/// Whose canaries heartbeats carry: the repository's, once it is found.
#[derive(Debug, Clone, Default)]
pub(super) struct Canaries(Arc<Mutex<Option<Identity>>>);

impl Canaries {
    pub(super) fn are_of(&self, identity: &Identity) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.clone());
    }

    /// A canary; before the repository is found a time only.
    fn text(&self, now: PgTime) -> String {
        let identity = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        identity.as_ref().and_then(|identity| identity.canary(now).ok()).unwrap_or_else(|| now.to_string())
    }
}

/// Sample the server for ever.
pub(super) async fn run(setup: Arc<Setup>, ledger: LedgerHandle, mut asks: Asks, canaries: Canaries) {
    let pause = (setup.tail_interval / 5).clamp(FASTEST, SLOWEST);
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = Connection {
        setup,
        ledger,
        canaries,
        session: None,
        tried_at: None,
        heartbeat_at: None,
        facts_at: None,
        is_wrong: false,
    };
    loop {
        let mut waiting = Vec::new();
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => waiting.push(ask),
                None => return,
            },
            _ = ticks.tick() => {}
        }
        while let Ok(ask) = asks.try_recv() {
            waiting.push(ask);
        }
        let sample = connection.sample().await;
        for ask in waiting {
            let _ = ask.send(sample);
        }
        connection.beat().await;
        connection.ask_again().await;
    }
}

struct Connection {
    setup: Arc<Setup>,
    ledger: LedgerHandle,
    canaries: Canaries,
    session: Option<Session>,
    tried_at: Option<Instant>,
    heartbeat_at: Option<Instant>,
    /// When it was last asked about itself.
    facts_at: Option<Instant>,
    /// Whether the server that answered is not the one in the data directory.
    is_wrong: bool,
}

impl Connection {
    async fn sample(&mut self) -> Option<Sample> {
        let asked_at = Instant::now();
        match self.ask().await {
            Ok(None) => None,
            Ok(Some(status)) => {
                let sample = Sample { asked_at, status };
                self.ledger.apply(Event::Sampled(sample), Now::read());
                Some(sample)
            }
            Err(error) => {
                self.failed(error);
                None
            }
        }
    }

    /// `None`: not connected, and the last try is not long ago.
    async fn ask(&mut self) -> Result<Option<WalStatus>> {
        if self.session.is_none() {
            if self.tried_at.is_some_and(|tried| tried.elapsed() < RECONNECT) {
                return Ok(None);
            }
            self.tried_at = Some(Instant::now());
            self.session = Some(within(self.connect()).await?);
        }
        let Some(session) = &self.session else { return Ok(None) };
        within(session.wal_status()).await.map(Some)
    }

    async fn connect(&mut self) -> Result<Session> {
        let session = Session::connect(&self.setup.conninfo, "walproof daemon").await?;
        let info = session.info().await?;
        // R10: a virtual IP address leads a standby to its primary.
        let data_dir = DataDir::open(&self.setup.data_dir)?;
        let control = data_dir.control()?;
        let process = session.pid_file().await?;
        let same = must_run_in(&info, process.as_deref(), &data_dir, &control);
        // Only what it answered: one that falls silent is not another one.
        self.is_wrong = same.is_err();
        same?;
        self.facts_at = Some(Instant::now());
        self.ledger.apply(Event::Connected(ServerFacts::from(&info)), Now::read());
        Ok(session)
    }

    /// Ask about the settings now and then: they may be others since the server was connected to.
    async fn ask_again(&mut self) {
        let due = self.facts_at.is_none_or(|asked| asked.elapsed() >= SETTINGS);
        let Some(session) = self.session.as_ref().filter(|_| due) else { return };
        self.facts_at = Some(Instant::now());
        match within(session.info()).await {
            Ok(info) => drop(self.ledger.apply(Event::Connected(ServerFacts::from(&info)), Now::read())),
            // A lost connection shows at the next sample.
            Err(error) => tracing::debug!(%error, "the server's settings cannot be read"),
        }
    }

    /// The server cannot be asked; if it does not run, what is on its disk counts as flushed.
    fn failed(&mut self, error: Error) {
        self.session = None;
        let wrong = std::mem::take(&mut self.is_wrong) && error.kind() == Kind::Server;
        let event = if wrong { Event::WrongServer(error) } else { Event::ServerFailed(error) };
        if self.ledger.apply(event, Now::read()) != Some(Wanted::DiskRead) {
            return;
        }
        let begin = Instant::now();
        let last = self.ledger.read(Ledger::last_flushed);
        let left = tokio::task::block_in_place(|| left_behind(&self.setup.data_dir, last));
        self.ledger.apply(Event::DiskRead { left, took: begin.elapsed() }, Now::read());
    }

    /// Write a heartbeat when it is due, so that an idle server proves its chain and has a time to be restored to.
    async fn beat(&mut self) {
        let pause = self.setup.heartbeat_interval;
        let due = self.heartbeat_at.is_none_or(|beat| beat.elapsed() >= pause);
        let Some(session) = self.session.as_ref().filter(|_| due && !pause.is_zero()) else { return };
        self.heartbeat_at = Some(Instant::now());
        let text = self.canaries.text(PgTime::now());
        if let Err(error) = within(session.emit_heartbeat(CANARY_PREFIX, &text)).await {
            self.failed(error);
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| {
        Err(Error::server(format!("the server does not answer within {} s", PATIENCE.as_secs()))
            .hint("is it overloaded, stopped, or waiting for a full disk?"))
    })
}
