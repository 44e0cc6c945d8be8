//! How the S3 server misbehaves: rules that a test adds while the server runs, and a record of all requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Put,
    Get,
    Head,
    List,
    Delete,
    /// `POST ?delete`, many keys at once; the keys are in the body, so no rule by key matches it.
    DeleteMany,
    /// Any step of a multipart upload.
    Multipart,
    Other,
}

impl Verb {
    /// From the HTTP method, the key ("" is the bucket itself) and the query.
    pub fn of(method: &str, key: &str, query: &str) -> Self {
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        match method {
            _ if has("uploads") || has("uploadId") => Self::Multipart,
            "GET" if key.is_empty() => Self::List,
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "POST" if has("delete") => Self::DeleteMany,
            _ => Self::Other,
        }
    }
}

/// What happens to a request that a rule picks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer this status with an S3 error document of this code; the server behind never sees the request.
    Status(u16, &'static str),
    /// Close the connection with a TCP reset, unanswered; the server behind never sees the request.
    Reset,
    /// Never answer.
    Hang,
    /// Send all headers and half of the body, then reset.
    HalfBody,
    /// Send the whole answer with one bit of the body flipped.
    FlipBit,
    /// Do what was asked, then answer 503.
    CommitThen503,
    /// Do what was asked, then reset.
    CommitThenReset,
    /// Do what was asked, and never answer.
    CommitThenHang,
    /// Wait, then do what was asked.
    Delay(Duration),
    /// Do what was asked, and send the body at this many bytes a second.
    Trickle(usize),
    /// Send the whole answer, whose length is right, but only the first half of its body is what was asked for: an
    /// intermediary that cuts and closes properly.
    CutBody,
    /// A listing that does not show keys that contain this: as it was before they were put.
    Stale(&'static str),
    /// Answer with a redirect to this address.
    Redirect(String),
}

/// Which requests, which of those, how many of those, and what happens then.
/// `Fault::status(503).on(Verb::Put).key("/wal/").nth(3)`
#[derive(Debug, Clone)]
pub struct Fault {
    action: Action,
    verb: Option<Verb>,
    key: Option<String>,
    pick: Pick,
    times: u64,
    seen: u64,
    done: u64,
}

#[derive(Debug, Clone, Copy)]
enum Pick {
    Always,
    Nth(u64),
    Every(u64),
    From(u64),
}

impl Fault {
    pub fn new(action: Action) -> Self {
        Self { action, verb: None, key: None, pick: Pick::Always, times: u64::MAX, seen: 0, done: 0 }
    }

    /// Answer `status` with the S3 error code that belongs to it.
    pub fn status(status: u16) -> Self {
        Self::answer(status, error_code(status))
    }

    /// Answer `status` with another code, e.g. `(403, "RequestTimeTooSkewed")`.
    pub fn answer(status: u16, code: &'static str) -> Self {
        Self::new(Action::Status(status, code))
    }

    pub fn reset() -> Self {
        Self::new(Action::Reset)
    }

    pub fn hang() -> Self {
        Self::new(Action::Hang)
    }

    pub fn half_body() -> Self {
        Self::new(Action::HalfBody)
    }

    pub fn flip_bit() -> Self {
        Self::new(Action::FlipBit)
    }

    pub fn commit_then_503() -> Self {
        Self::new(Action::CommitThen503)
    }

    pub fn commit_then_reset() -> Self {
        Self::new(Action::CommitThenReset)
    }

    pub fn commit_then_hang() -> Self {
        Self::new(Action::CommitThenHang)
    }

    pub fn delay(time: Duration) -> Self {
        Self::new(Action::Delay(time))
    }

    pub fn trickle(bytes_per_second: usize) -> Self {
        Self::new(Action::Trickle(bytes_per_second))
    }

    pub fn cut_body() -> Self {
        Self::new(Action::CutBody)
    }

    pub fn stale(part: &'static str) -> Self {
        Self::new(Action::Stale(part)).on(Verb::List)
    }

    pub fn redirect(to: &str) -> Self {
        Self::new(Action::Redirect(to.to_owned()))
    }

    /// Only requests of this verb.
    pub fn on(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Only requests whose key contains `part`; for a list, its prefix.
    pub fn key(mut self, part: &str) -> Self {
        self.key = Some(part.into());
        self
    }

    /// Only the `n`th matching request, from 1.
    pub fn nth(mut self, n: u64) -> Self {
        self.pick = Pick::Nth(n);
        self
    }

    /// Every `n`th matching request.
    pub fn every(mut self, n: u64) -> Self {
        self.pick = Pick::Every(n);
        self
    }

    /// The `n`th matching request and all after it.
    pub fn from(mut self, n: u64) -> Self {
        self.pick = Pick::From(n);
        self
    }

    /// At most this often; then the rule is spent.
    pub fn times(mut self, n: u64) -> Self {
        self.times = n;
        self
    }

    fn strikes(&mut self, verb: Verb, key: &str) -> bool {
        let verb_fits = self.verb.is_none_or(|wanted| wanted == verb);
        let key_fits = self.key.as_deref().is_none_or(|part| key.contains(part));
        if !verb_fits || !key_fits || self.done >= self.times {
            return false;
        }
        self.seen += 1;
        let strikes = match self.pick {
            Pick::Always => true,
            Pick::Nth(n) => self.seen == n,
            Pick::Every(n) => self.seen.is_multiple_of(n),
            Pick::From(n) => self.seen >= n,
        };
        self.done += u64::from(strikes);
        strikes
    }
}

/// One request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub verb: Verb,
    /// Key in the bucket, decoded; for a list, its prefix.
    pub key: String,
    /// `None`: not answered (reset, hung, half a body, or the client left).
    pub status: Option<u16>,
    /// The rule that struck.
    pub fault: Option<Action>,
}

/// Key and size of each old version.
type Versions = Vec<(String, u64)>;

/// The rules and the record, shared between a test and the server.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    rules: Arc<Mutex<Vec<Fault>>>,
    record: Arc<Mutex<Vec<Request>>>,
    latency_micros: Arc<AtomicU64>,
    versions: Arc<Mutex<Option<Versions>>>,
}

impl Faults {
    /// From now on the bucket has versioning: what is deleted or overwritten is kept, and listed as an old version.
    pub fn keep_versions(&self) -> &Self {
        lock(&self.versions).get_or_insert_default();
        self
    }

    /// Key and size of each old version, if the bucket has versioning.
    pub fn old_versions(&self) -> Option<Versions> {
        lock(&self.versions).clone()
    }

    pub(super) fn keep_version(&self, key: &str, size: u64) {
        if let Some(versions) = &mut *lock(&self.versions) {
            versions.push((key.to_owned(), size));
        }
    }

    /// Add a rule. The first rule that strikes decides; rules behind it do not see the request.
    pub fn add(&self, fault: Fault) -> &Self {
        lock(&self.rules).push(fault);
        self
    }

    /// Behave well again; the record stays.
    pub fn clear(&self) -> &Self {
        lock(&self.rules).clear();
        self.latency(Duration::ZERO)
    }

    /// How often rules struck so far: 0 means that a test of a fault tested nothing.
    pub fn struck(&self) -> usize {
        lock(&self.record).iter().filter(|request| request.fault.is_some()).count()
    }

    /// Every request takes this much longer.
    pub fn latency(&self, time: Duration) -> &Self {
        self.latency_micros.store(time.as_micros() as u64, Ordering::Relaxed);
        self
    }

    /// All requests so far, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.record).clone()
    }

    pub fn count(&self, verb: Verb) -> usize {
        lock(&self.record).iter().filter(|request| request.verb == verb).count()
    }

    pub fn total(&self) -> usize {
        lock(&self.record).len()
    }

    /// Forget the requests so far, and so count from 0.
    pub fn forget(&self) -> &Self {
        lock(&self.record).clear();
        self
    }

    pub(super) fn current_latency(&self) -> Duration {
        Duration::from_micros(self.latency_micros.load(Ordering::Relaxed))
    }

    /// Note the request and decide its fate; the number is for [`Faults::answered`].
    pub(super) fn arrived(&self, method: &str, verb: Verb, key: &str) -> (usize, Option<Action>) {
        let strike = |rule: &mut Fault| rule.strikes(verb, key).then(|| rule.action.clone());
        let fault = lock(&self.rules).iter_mut().find_map(strike);
        let mut record = lock(&self.record);
        let (method, key) = (method.to_owned(), key.to_owned());
        record.push(Request { method, verb, key, status: None, fault: fault.clone() });
        (record.len() - 1, fault)
    }

    pub(super) fn answered(&self, number: usize, status: u16) {
        if let Some(request) = lock(&self.record).get_mut(number) {
            request.status = Some(status);
        }
    }
}

/// A failed assertion elsewhere must not make the server panic, too.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error_code(status: u16) -> &'static str {
    match status {
        301 => "PermanentRedirect",
        400 => "InvalidRequest",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        409 => "OperationAborted",
        412 => "PreconditionFailed",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    }
}
