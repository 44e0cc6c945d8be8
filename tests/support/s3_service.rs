//! One request through the S3 server: record it, let a fault have it, else pass it to `s3s-fs`.

use super::faults::{Action, Faults, Verb};
use super::s3::Hook;
use super::s3_behind::Behind;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use hyper::service::Service as _;
use hyper::{Method, Request, Response};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s::{Body, HttpError};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

type Answer = Result<Response<Body>, HttpError>;

/// What answers when no fault does.
#[derive(Clone)]
enum Inner {
    Files(s3s::service::S3Service),
    Server(Behind),
}

impl Inner {
    async fn call(&self, request: Request<Body>) -> Answer {
        match self {
            Self::Files(files) => files.call(request).await,
            Self::Server(server) => server.call(request).await,
        }
    }
}

/// Shared by all connections.
#[derive(Clone)]
pub struct Service {
    inner: Inner,
    bucket: String,
    bucket_dir: PathBuf,
    faults: Faults,
    locks: Arc<Locks>,
}

/// `s3s-fs` checks "exists" and then writes, and its list fails when an object vanishes under it: writes of
/// one key go one at a time, and a list has the bucket for itself.
#[derive(Default)]
struct Locks {
    keys: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    bucket: tokio::sync::RwLock<()>,
}

impl Locks {
    fn of(&self, path: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(keys.entry(path.into()).or_default())
    }
}

impl Service {
    pub fn new(root: &Path, bucket: &str, access_key: &str, secret_key: &str, faults: Faults) -> Self {
        let files = s3s_fs::FileSystem::new(root).expect("open the S3 server's directory");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let bucket_dir = root.join(bucket);
        Self {
            inner: Inner::Files(builder.build()),
            bucket: bucket.into(),
            bucket_dir,
            faults,
            locks: Arc::default(),
        }
    }

    /// In front of another server.
    pub fn before(server: Behind, bucket: &str, faults: Faults) -> Self {
        let inner = Inner::Server(server);
        Self { inner, bucket: bucket.into(), bucket_dir: PathBuf::new(), faults, locks: Arc::default() }
    }

    pub async fn answer(&self, request: Request<Incoming>, hook: &Hook) -> Answer {
        let query = request.uri().query().unwrap_or_default();
        let path = decode(request.uri().path());
        let object = path.trim_start_matches('/').strip_prefix(&self.bucket).unwrap_or(&path);
        let object = object.trim_start_matches('/');
        let method = request.method().to_string();
        let verb = Verb::of(&method, object, query);
        let key = if verb == Verb::List { prefix_of(query) } else { object.to_owned() };

        let (number, fault) = self.faults.arrived(&method, verb, &key);
        tokio::time::sleep(self.faults.current_latency()).await;
        let answer = self.strike(fault, request, verb, &path, hook).await?;
        if answer.extensions().get::<Broken>().is_none() {
            self.faults.answered(number, answer.status().as_u16());
        }
        Ok(answer)
    }

    async fn strike(
        &self,
        fault: Option<Action>,
        request: Request<Incoming>,
        verb: Verb,
        path: &str,
        hook: &Hook,
    ) -> Answer {
        match fault {
            None => self.pass(request, verb, path).await,
            Some(Action::Delay(time)) => {
                tokio::time::sleep(time).await;
                self.pass(request, verb, path).await
            }
            Some(Action::Status(status, code)) => {
                // Read first: a client that is still sending would see a broken pipe, not the answer.
                let _ = request.into_body().collect().await;
                Ok(error_answer(status, code))
            }
            Some(Action::Reset) => Err(reset(hook)),
            Some(Action::Hang) => std::future::pending().await,
            Some(Action::HalfBody) => half(self.pass(request, verb, path).await?, hook).await,
            Some(Action::FlipBit) => flipped(self.pass(request, verb, path).await?).await,
            Some(Action::Trickle(pace)) => trickled(self.pass(request, verb, path).await?, pace).await,
            Some(Action::CutBody) => cut(self.pass(request, verb, path).await?).await,
            Some(Action::Stale(part)) => without(self.pass(request, verb, path).await?, part).await,
            Some(Action::Redirect(to)) => {
                let _ = request.into_body().collect().await;
                let mut answer = error_answer(307, "TemporaryRedirect");
                answer.headers_mut().insert(LOCATION, to.parse().expect("an address"));
                Ok(answer)
            }
            Some(Action::CommitThen503) => {
                self.pass(request, verb, path).await?;
                Ok(error_answer(503, "SlowDown"))
            }
            Some(Action::CommitThenHang) => {
                self.pass(request, verb, path).await?;
                std::future::pending().await
            }
            Some(Action::CommitThenReset) => {
                self.pass(request, verb, path).await?;
                Err(reset(hook))
            }
        }
    }

    async fn pass(&self, request: Request<Incoming>, verb: Verb, path: &str) -> Answer {
        let Some(old) = self.faults.old_versions() else {
            return self.serve(request.map(Body::from), verb, path).await;
        };
        let query = request.uri().query().unwrap_or_default();
        if verb == Verb::List && query.split('&').any(|pair| pair.split('=').next() == Some("versions")) {
            return Ok(versions(&old, &prefix_of(query)));
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|error| HttpError::new(Box::new(error)))?.to_bytes();
        let keys: Vec<String> = match verb {
            Verb::Put | Verb::Delete => {
                let object = path.trim_start_matches('/').strip_prefix(&self.bucket).unwrap_or(path);
                vec![object.trim_start_matches('/').to_owned()]
            }
            Verb::DeleteMany => {
                let text = String::from_utf8_lossy(&body).into_owned();
                text.split("<Key>")
                    .skip(1)
                    .filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
                    .collect()
            }
            _ => Vec::new(),
        };
        for key in &keys {
            if let Ok(meta) = std::fs::metadata(self.bucket_dir.join(key)) {
                self.faults.keep_version(key, meta.len());
            }
        }
        let mut answer = self.serve(Request::from_parts(head, Body::from(body)), verb, path).await?;
        if verb == Verb::Put {
            answer.headers_mut().insert("x-amz-version-id", "v1".parse().expect("a header"));
        }
        Ok(answer)
    }

    async fn serve(&self, request: Request<Body>, verb: Verb, path: &str) -> Answer {
        if verb == Verb::List {
            let _alone = self.locks.bucket.write().await;
            return self.inner.call(request).await;
        }
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.inner.call(request).await;
        }
        let lock = self.locks.of(path);
        let _one_writer = lock.lock().await;
        let _no_list = self.locks.bucket.read().await;
        self.inner.call(request).await
    }
}

/// ListObjectVersions, the old ones, on one page.
fn versions(old: &[(String, u64)], prefix: &str) -> Response<Body> {
    let below = old.iter().filter(|(key, _)| key.starts_with(prefix));
    let each = below.map(|(key, size)| {
        format!(
            "<DeleteMarker><Key>{key}</Key><VersionId>m</VersionId><IsLatest>true</IsLatest></DeleteMarker><Version>\
             <Key>{key}</Key><VersionId>v</VersionId><IsLatest>false</IsLatest><Size>{size}</Size></Version>"
        )
    });
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListVersionsResult><IsTruncated>false</IsTruncated>{}\
         </ListVersionsResult>",
        each.collect::<String>()
    );
    let answer = Response::builder().status(200).header(CONTENT_TYPE, "application/xml");
    answer.body(Body::from(xml)).expect("a listing of versions")
}

/// Marks an answer that the client will not receive whole.
#[derive(Debug, Clone)]
struct Broken;

fn reset(hook: &Hook) -> HttpError {
    hook.reset_on_close();
    HttpError::new(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))
}

fn error_answer(status: u16, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>injected by the test rig\
         </Message></Error>"
    );
    let answer = Response::builder().status(status).header(CONTENT_TYPE, "application/xml");
    answer.body(Body::from(xml)).expect("an error answer")
}

async fn half(answer: Response<Body>, hook: &Hook) -> Answer {
    let (mut head, body) = answer.into_parts();
    let whole = body.collect().await.map_err(HttpError::new)?.to_bytes();
    head.headers.insert(CONTENT_LENGTH, whole.len().into());
    head.extensions.insert(Broken);
    let (half, hook) = (whole.slice(..whole.len() / 2), hook.clone());
    let frames = stream::unfold(Some(half), move |half| {
        let hook = hook.clone();
        async move {
            let Some(half) = half else {
                // Let the first half leave before the reset overtakes it.
                tokio::time::sleep(Duration::from_millis(100)).await;
                hook.reset_on_close();
                return Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), None));
            };
            Some((Ok(Frame::data(half)), None))
        }
    });
    Ok(Response::from_parts(head, Body::http_body_unsync(StreamBody::new(frames))))
}

/// A tenth of a second's worth at a time.
async fn trickled(answer: Response<Body>, pace: usize) -> Answer {
    let (mut head, body) = answer.into_parts();
    let whole = body.collect().await.map_err(HttpError::new)?.to_bytes();
    head.headers.insert(CONTENT_LENGTH, whole.len().into());
    let frames = stream::unfold(whole, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let some = rest.split_to((pace / 10).clamp(1, rest.len()));
        Some((Ok::<_, io::Error>(Frame::data(some)), rest))
    });
    Ok(Response::from_parts(head, Body::http_body_unsync(StreamBody::new(frames))))
}

async fn cut(answer: Response<Body>) -> Answer {
    let (mut head, body) = answer.into_parts();
    let whole = body.collect().await.map_err(HttpError::new)?.to_bytes();
    let half = whole.slice(..whole.len() / 2);
    head.headers.insert(CONTENT_LENGTH, half.len().into());
    Ok(Response::from_parts(head, Body::from(half)))
}

async fn without(answer: Response<Body>, part: &str) -> Answer {
    let (mut head, body) = answer.into_parts();
    let whole = body.collect().await.map_err(HttpError::new)?.to_bytes();
    let text = String::from_utf8_lossy(&whole);
    let mut shown = String::new();
    for piece in text.split_inclusive("</Contents>") {
        match piece.find("<Contents>") {
            Some(at) if piece[at..].contains(part) => shown.push_str(&piece[..at]),
            _ => shown.push_str(piece),
        }
    }
    head.headers.insert(CONTENT_LENGTH, shown.len().into());
    Ok(Response::from_parts(head, Body::from(Bytes::from(shown))))
}

async fn flipped(answer: Response<Body>) -> Answer {
    let (head, body) = answer.into_parts();
    let mut whole = body.collect().await.map_err(HttpError::new)?.to_bytes().to_vec();
    let middle = whole.len() / 2;
    if let Some(byte) = whole.get_mut(middle) {
        *byte ^= 1;
    }
    Ok(Response::from_parts(head, Body::from(Bytes::from(whole))))
}

fn prefix_of(query: &str) -> String {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs
        .into_iter()
        .find(|(name, _)| name == "prefix")
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn decode(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = (first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
