//! The heartbeat: a request that goes out while all is well, so that somebody else notices when it stops. Uptime Kuma is
//! also told what is wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use url::Url;

use super::snapshot::Desk;
use crate::archiver::Outage;
use crate::error::{Error, Kind, Result, with_causes};
use crate::status::{Severity, Snapshot};

const DEADLINE: Duration = Duration::from_secs(10);
/// Between two heartbeats that say the same.
const PING: Duration = Duration::from_secs(30);
/// How often to look whether there is something else to say.
const LOOK: Duration = Duration::from_secs(2);
/// What lasts shorter than this, such as a restart of the server, is not told.
const GRACE: Duration = Duration::from_secs(30);
/// Characters of a reason; Uptime Kuma shows it in one line and puts it into its notifications.
const LONGEST_REASON: usize = 200;

/// Send heartbeats to `url` for ever.
pub(super) async fn run(desk: Arc<Desk>, url: Url) {
    let client = loop {
        match client() {
            Ok(client) => break client,
            Err(error) => tracing::error!(%error, "cannot ping notify.heartbeat_url"),
        }
        sleep(PING).await;
    };
    let mut outage = Outage::new("notify.heartbeat_url cannot be pinged");
    let mut pace = Pace::default();
    loop {
        let reason = reason(&desk.fresh_snapshot().await);
        if pace.is_due(reason.is_none(), Instant::now())
            && let Some(address) = address(&url, reason.as_deref())
        {
            match ping(&client, &address).await {
                Ok(()) => outage.succeeded(Instant::now()),
                Err(error) => outage.failed(Instant::now(), &error),
            }
        }
        sleep(LOOK).await;
    }
}

/// When what was said, so that changes are told at once and the rest now and then.
#[derive(Debug, Default)]
struct Pace {
    unwell_since: Option<Instant>,
    said: Option<(bool, Instant)>,
}

impl Pace {
    /// Whether it is time to say that all is `well`, or that it is not; if so, that counts as said.
    fn is_due(&mut self, well: bool, now: Instant) -> bool {
        if well {
            self.unwell_since = None;
        } else if now.duration_since(*self.unwell_since.get_or_insert(now)) < GRACE {
            return false;
        }
        let due = self.said.is_none_or(|(said, at)| said != well || now.duration_since(at) >= PING);
        if due {
            self.said = Some((well, now));
        }
        due
    }
}

/// The first promise that does not hold, in one line; `None` while all is well.
fn reason(snapshot: &Snapshot) -> Option<String> {
    let broken = snapshot.problems.iter().find(|problem| problem.severity >= Severity::Critical)?;
    let line = format!("{}: {}", broken.code.as_str(), broken.text.replace(['\n', '\r'], " "));
    Some(line.chars().take(LONGEST_REASON).collect())
}

/// Where to say it. Only Uptime Kuma's push monitors take a reason: `.../api/push/TOKEN?status=down&msg=REASON`. For
/// anything else a heartbeat means that all is well, and silence that it is not.
fn address(url: &Url, reason: Option<&str>) -> Option<Url> {
    if !url.path().contains("/api/push/") {
        return reason.is_none().then(|| url.clone());
    }
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| name != "status" && name != "msg")
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let (status, message) = reason.map_or(("up", "OK"), |reason| ("down", reason));
    let mut address = url.clone();
    address
        .query_pairs_mut()
        .clear()
        .extend_pairs(&others)
        .append_pair("status", status)
        .append_pair("msg", message);
    Some(address)
}

/// A client for [`ping`]; make one and keep it.
fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("walproof/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|cause| Error::new(Kind::Other, format!("prepare heartbeats: {}", with_causes(&cause))))
}

/// Ask for `url`; any 2xx is success. Errors name the host only: path and query hold a token.
async fn ping(client: &reqwest::Client, url: &Url) -> Result<()> {
    ping_within(DEADLINE, client, url).await
}

async fn ping_within(deadline: Duration, client: &reqwest::Client, url: &Url) -> Result<()> {
    let failed = |reason: String| {
        let host = url.host_str().unwrap_or("the heartbeat's address");
        Error::new(Kind::Unreachable, format!("send a heartbeat to {host}: {reason}"))
    };
    let request = client.get(url.clone()).timeout(deadline).send();
    let response = request.await.map_err(|cause| {
        if cause.is_timeout() {
            return failed(format!("no answer within {}", humantime::format_duration(deadline)));
        }
        // Causes below the first quote addresses where redirects lead; those are as secret.
        if cause.is_redirect() {
            return failed("redirected too often".to_owned());
        }
        failed(with_causes(&cause.without_url()))
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    Err(failed(format!("answered {status}")).hint("is the heartbeat's URL in the configuration right?"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one request with `status`, and its address; the task gives the request's first line.
    async fn server(status: &'static str) -> (Url, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ping/s3cr3t?key=t0k3n", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = stream.read(&mut request).await.unwrap();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request[..len].to_vec()).unwrap().lines().next().unwrap().to_owned()
        });
        (url.parse().unwrap(), served)
    }

    #[test]
    fn changes_are_told_at_once_and_short_ones_not_at_all() {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let mut due = |well, seconds| pace.is_due(well, begin + Duration::from_secs(seconds));
        assert!(!due(false, 0), "it has just started");
        assert!(due(true, 2));
        assert!(!due(true, 4) && !due(true, 31) && due(true, 32));
        assert!(!due(false, 34) && !due(false, 60), "a restart");
        assert!(due(true, 62), "the next in line, not the news of a recovery");
        assert!(!due(false, 64) && !due(false, 93) && due(false, 94));
        assert!(!due(false, 96) && due(false, 124));
        assert!(due(true, 126), "the recovery");
    }

    #[test]
    fn uptime_kuma_is_told_the_reason_and_others_only_that_all_is_well() {
        let told = |url: &str, reason: Option<&str>| {
            address(&url.parse().unwrap(), reason).map(|url| url.to_string()).unwrap_or_default()
        };
        let kuma = "https://kuma.example/sub/api/push/t0k3n?status=up&msg=OK&ping=";
        let begin = "https://kuma.example/sub/api/push/t0k3n?ping=";
        assert_eq!(told(kuma, None), format!("{begin}&status=up&msg=OK"));
        assert_eq!(
            told(kuma, Some("no_backup: \u{e9} & more")),
            format!("{begin}&status=down&msg=no_backup%3A+%C3%A9+%26+more")
        );
        assert_eq!(
            told("https://k.example/api/push/t", None),
            "https://k.example/api/push/t?status=up&msg=OK"
        );
        let other = "https://hc.example/ping/t0k3n?key=x";
        assert_eq!(told(other, None), other);
        assert_eq!(told(other, Some("no_backup")), "");
    }

    #[tokio::test]
    async fn a_ping_asks_for_the_whole_address() {
        let (url, served) = server("204 No Content").await;
        ping(&client().unwrap(), &url).await.unwrap();
        assert_eq!(served.await.unwrap(), "GET /ping/s3cr3t?key=t0k3n HTTP/1.1");
    }

    #[tokio::test]
    async fn errors_do_not_tell_the_token() {
        let (url, _served) = server("404 Not Found").await;
        let refused = ping(&client().unwrap(), &url).await.unwrap_err();
        assert_eq!(refused.to_string(), "send a heartbeat to 127.0.0.1: answered 404 Not Found");
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let nobody = format!("http://127.0.0.1:{port}/ping/s3cr3t?key=t0k3n").parse().unwrap();
        let https = format!("https://127.0.0.1:{port}/ping/s3cr3t?key=t0k3n").parse().unwrap();
        for url in [&nobody, &https] {
            let error = ping(&client().unwrap(), url).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unreachable);
            let text = format!("{error} {error:?}");
            assert!(text.contains("refused"), "{text}");
            assert!(!text.contains("s3cr3t") && !text.contains("t0k3n"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/s3cr3t", listener.local_addr().unwrap()).parse().unwrap();
        let deadline = Duration::from_millis(50);
        let error = ping_within(deadline, &client().unwrap(), &url).await.unwrap_err();
        assert_eq!(error.to_string(), "send a heartbeat to 127.0.0.1: no answer within 50ms");
    }
}
