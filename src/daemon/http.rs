//! What is known, over HTTP: `/metrics`, `/healthz` and the status page. Reads only; it changes nothing.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::counters::Counters;
use super::exposition::Format;
use super::metrics;
use super::snapshot::{Severity, Snapshot};
use crate::error::{Error, Kind, Result};

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Until a request's head is there.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A whole connection, so that one that does not read its answer frees its place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept, such as without file descriptors: so that this does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where the answers come from.
pub(super) trait Answers: Send + Sync {
    /// What is known now; may take a second.
    fn snapshot(&self) -> Pin<Box<dyn Future<Output = Snapshot> + Send + '_>>;

    /// What was counted.
    fn counters(&self) -> &Counters;
}

/// Listen on `address`.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|cause| {
        let error = Error::new(Kind::Other, format!("listen on {address}: {cause}"));
        match cause.kind() {
            std::io::ErrorKind::AddrInUse => error.hint("is another daemon or program using the port?"),
            std::io::ErrorKind::AddrNotAvailable => error.hint("does the address belong to this host?"),
            std::io::ErrorKind::PermissionDenied => {
                error.hint("ports below 1024 are root's: is the port right?")
            }
            _ => error,
        }
    })
}

/// Answer requests until dropped, which also ends the connections.
pub(super) async fn serve(listener: TcpListener, answers: Arc<dyn Answers>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Never closed, so always given.
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let answers = Arc::clone(&answers);
                connections.spawn(async move {
                    let _place = place;
                    if tokio::time::timeout(CONNECTION_TIMEOUT, talk(stream, answers)).await.is_err() {
                        tracing::debug!("a connection took too long");
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// One request for each connection: scrapes are rare, and a place is not held by silence.
async fn talk(stream: TcpStream, answers: Arc<dyn Answers>) {
    let service = service_fn(|request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answer(&request, answers.as_ref()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection failed");
    }
}

async fn answer(request: &Request<Incoming>, answers: &dyn Answers) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/" | "/metrics" | "/healthz") {
        return respond(StatusCode::NOT_FOUND, PLAIN, "not found\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let snapshot = answers.snapshot().await;
    match path {
        "/metrics" => {
            let accept = request.headers().get_all(header::ACCEPT).iter();
            let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
            let format = Format::accepted(&accept.join(","));
            let text = metrics::encode(&snapshot, answers.counters(), format);
            let mut response = respond(StatusCode::OK, format.content_type(), text);
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
            response
        }
        "/healthz" => health(&snapshot),
        _ => page(&snapshot),
    }
}

fn health(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    if snapshot.is_healthy() {
        return respond(StatusCode::OK, PLAIN, "ok\n".to_owned());
    }
    let failures = snapshot.problems.iter().filter(|problem| problem.severity >= Severity::Failure);
    let lines = failures.map(|problem| format!("{}\n", problem.text.replace(['\n', '\r'], " ")));
    respond(StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines.collect())
}

fn page(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", super::page::render(snapshot));
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

/// Nothing but the page itself: no scripts, no requests, no frames.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";
const PLAIN: &str = "text/plain; charset=utf-8";

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::daemon::Problem;
    use crate::daemon::metrics::tests::unknown;

    struct Fixed(Snapshot, Counters);

    impl Answers for Fixed {
        fn snapshot(&self) -> Pin<Box<dyn Future<Output = Snapshot> + Send + '_>> {
            Box::pin(std::future::ready(self.0.clone()))
        }

        fn counters(&self) -> &Counters {
            &self.1
        }
    }

    async fn start(problems: Vec<Problem>) -> SocketAddr {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let snapshot = Snapshot { problems, ..unknown() };
        tokio::spawn(serve(listener, Arc::new(Fixed(snapshot, Counters::default()))));
        address
    }

    fn problem(severity: Severity, text: &str) -> Problem {
        Problem { severity, text: text.to_owned(), hint: None }
    }

    /// Everything that is answered to `head` until the server closes.
    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        let address = start(vec![problem(Severity::Warning, "w")]).await;
        let metrics = ask(address, "GET /metrics?x=1 HTTP/1.1").await;
        assert!(
            metrics.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4;"),
            "{metrics}"
        );
        assert!(metrics.contains("\nwalproof_rpo_objective_seconds{cluster=\"main\"} 900.0\n"));
        let open = ask(address, "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text").await;
        assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0;"), "{open}");
        assert!(open.ends_with("# EOF\n"));
        let health = ask(address, "GET /healthz HTTP/1.1").await;
        assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"), "{health}");
        let page = ask(address, "GET / HTTP/1.1").await;
        for wanted in
            ["content-type: text/html", "content-security-policy: default-src 'none';", "<!DOCTYPE html>"]
        {
            assert!(page.contains(wanted), "{page}");
        }
        for answer in [metrics, open, health, page] {
            assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
            assert!(answer.contains("x-content-type-options: nosniff\r\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn failures_are_unhealthy_one_line_each() {
        let problems = [
            problem(Severity::Failure, "the RPO\nis 3 h"),
            problem(Severity::Failure, "no backup"),
            problem(Severity::Warning, "w"),
        ];
        let answer = ask(start(problems.into()).await, "GET /healthz HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nthe RPO is 3 h\nno backup\n"), "{answer}");
    }

    #[tokio::test]
    async fn head_has_no_body_and_other_requests_are_refused() {
        let address = start(Vec::new()).await;
        let head = ask(address, "HEAD /healthz HTTP/1.1").await;
        assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(address, "GET /metrics/ HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
        let post = ask(address, "POST /metrics HTTP/1.1\r\nContent-Length: 0").await;
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD\r\n"), "{post}");
    }

    #[tokio::test]
    async fn bad_clients_do_not_end_the_server() {
        let address = start(Vec::new()).await;
        for garbage in ["\0\u{1}\u{2}", "GET", "GET / HTTP/9.9", "GET http://[ HTTP/1.1"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("{garbage}\r\n\r\n").as_bytes()).await.unwrap();
            drop(stream);
        }
        // As many silent ones as leave one place.
        let mut silent = Vec::new();
        for _ in 1..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, "GET /healthz HTTP/1.1").await.ends_with("ok\n"));
        silent.push(TcpStream::connect(address).await.unwrap());
        let waiting = tokio::time::timeout(Duration::from_millis(200), ask(address, "GET /healthz HTTP/1.1"));
        assert!(waiting.await.is_err(), "more connections than places");
        drop(silent);
        assert!(ask(address, "GET /healthz HTTP/1.1").await.ends_with("ok\n"));
    }

    #[tokio::test]
    async fn a_port_in_use_is_explained() {
        let taken = start(Vec::new()).await;
        let error = bind(taken).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Other);
        assert!(error.to_string().starts_with(&format!("listen on {taken}: ")), "{error}");
        assert_eq!(error.hint_text(), Some("is another daemon or program using the port?"));
    }
}
