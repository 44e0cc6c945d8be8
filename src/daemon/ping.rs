//! The heartbeat: a request that goes out while all is well, so that somebody else notices when it stops.

use std::time::Duration;

use url::Url;

use crate::error::{Error, Kind, Result, with_causes};

const DEADLINE: Duration = Duration::from_secs(10);

/// A client for [`ping`]; make one and keep it.
pub(super) fn client() -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("walproof/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|cause| Error::new(Kind::Other, format!("prepare heartbeats: {}", with_causes(&cause))))
}

/// Ask for `url`; any 2xx is success. Errors name the host only: path and query hold a token.
pub(super) async fn ping(client: &reqwest::Client, url: &Url) -> Result<()> {
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
