//! What is known, over HTTP: `/metrics`, `/healthz` and the status page. Reads only; it changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::snapshot::Desk;
use crate::error::{Error, Kind, Result};
use crate::status::{self, Format, Severity, Snapshot};

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Until a request's head is there.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A whole connection, so that one that does not read its answer frees its place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept, such as without file descriptors: so that this does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Listen on `address`.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|cause| {
        let error = Error::new(Kind::Other, format!("listen on {address}: {cause}"));
        match cause.kind() {
            std::io::ErrorKind::AddrInUse => error.hint("is another daemon or program using the port?"),
            std::io::ErrorKind::AddrNotAvailable => error.hint("does the address belong to this host?"),
            std::io::ErrorKind::PermissionDenied => {
                error.hint("only root may use ports below 1024: is the port right?")
            }
            _ => error,
        }
    })
}

/// Answer requests until dropped, which also ends the connections.
pub(super) async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    serve_routes(listener, routes(desk)).await;
}

async fn serve_routes(listener: TcpListener, routes: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Never closed, so always given.
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let routes = routes.clone();
                connections.spawn(async move {
                    let _place = place;
                    if tokio::time::timeout(CONNECTION_TIMEOUT, talk(stream, routes)).await.is_err() {
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
async fn talk(stream: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection failed");
    }
}

/// Where the answers come from.
trait Ask: Send + Sync + 'static {
    /// What is known now; may take a second.
    fn ask(&self) -> impl Future<Output = Snapshot> + Send;
}

impl Ask for Desk {
    async fn ask(&self) -> Snapshot {
        self.fresh_snapshot().await
    }
}

fn routes<A: Ask>(source: Arc<A>) -> Router {
    Router::new()
        .route("/", get(page::<A>))
        .route("/metrics", get(metrics::<A>))
        .route("/healthz", get(health::<A>))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"))
        .layer(map_response(keep_private))
        .with_state(source)
}

/// What is known changes, and is for whoever asked.
async fn keep_private(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn metrics<A: Ask>(State(source): State<Arc<A>>, headers: HeaderMap) -> Response {
    let snapshot = source.ask().await;
    let format = Format::accepted(&accepted(&headers));
    let about = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "Accept")];
    (about, status::metrics(&snapshot, format)).into_response()
}

/// All that the client accepts, in one line.
fn accepted(headers: &HeaderMap) -> String {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

/// 200 while everything that was promised holds. One line for each problem that breaks a promise, its code first; all
/// problems as JSON for whoever asks for that.
async fn health<A: Ask>(State(source): State<Arc<A>>, headers: HeaderMap) -> Response {
    let snapshot = source.ask().await;
    let healthy = snapshot.is_healthy();
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if accepted(&headers).contains("application/json") {
        let health = serde_json::json!({ "healthy": healthy, "problems": snapshot.problems });
        return (status, [(header::VARY, "Accept")], Json(health)).into_response();
    }
    if healthy {
        return (status, "ok\n").into_response();
    }
    let failures = snapshot.problems.iter().filter(|problem| problem.severity >= Severity::Critical);
    let line = |problem: &status::Problem| {
        format!("{}: {}\n", problem.code.as_str(), problem.text.replace(['\n', '\r'], " "))
    };
    (status, failures.map(line).collect::<String>()).into_response()
}

async fn page<A: Ask>(State(source): State<Arc<A>>) -> Response {
    let about: [(HeaderName, &str); 2] =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (about, status::page(&source.ask().await)).into_response()
}

/// Nothing but the page itself: no scripts, no requests, no frames.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::status::samples::unknown;
    use crate::status::{Code, Problem};

    struct Fixed(Snapshot);

    impl Ask for Fixed {
        async fn ask(&self) -> Snapshot {
            self.0.clone()
        }
    }

    async fn start(problems: Vec<Problem>) -> SocketAddr {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let snapshot = Snapshot { problems, ..unknown() };
        tokio::spawn(serve_routes(listener, routes(Arc::new(Fixed(snapshot)))));
        address
    }

    fn problem(severity: Severity, text: &str) -> Problem {
        Problem { code: Code::NoBackup, severity, text: text.to_owned(), hint: None }
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
            problem(Severity::Critical, "the RPO\nis 3 h"),
            problem(Severity::Critical, "no backup"),
            problem(Severity::Warning, "w"),
        ];
        let answer = ask(start(problems.into()).await, "GET /healthz HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nno_backup: the RPO is 3 h\nno_backup: no backup\n"), "{answer}");
    }

    #[tokio::test]
    async fn health_is_json_for_whoever_asks_for_it() {
        let address = start(vec![problem(Severity::Critical, "x"), problem(Severity::Warning, "w")]).await;
        let answer = ask(address, "GET /healthz HTTP/1.1\r\nAccept: application/json").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let health: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(health["healthy"], false);
        assert_eq!(health["problems"][1]["code"], "no_backup");
        assert_eq!(health["problems"][1]["severity"], "warning");
    }

    #[tokio::test]
    async fn head_has_no_body_and_other_requests_are_refused() {
        let address = start(Vec::new()).await;
        let head = ask(address, "HEAD /healthz HTTP/1.1").await;
        assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(address, "GET /metrics/ HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
        let post = ask(address, "POST /metrics HTTP/1.1\r\nContent-Length: 0").await;
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET,HEAD\r\n"), "{post}");
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
