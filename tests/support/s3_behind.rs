//! A real S3 server behind the faults: what they leave alone goes on to it as it came, signature and all.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use hyper::{Method, Request, Response};
use s3s::{Body, HttpError};

/// Where requests go that no fault keeps.
#[derive(Clone)]
pub struct Behind {
    endpoint: String,
    client: reqwest::Client,
}

impl Behind {
    /// In front of the server at this endpoint.
    pub fn new(endpoint: &str) -> Self {
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        Self { endpoint: endpoint.to_owned(), client: builder.build().expect("an HTTP client") }
    }

    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, HttpError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(HttpError::new)?.to_bytes();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let asked_for_head = head.method == Method::HEAD;
        // The Host header stays, too: it is signed.
        let onward = self.client.request(head.method, format!("{}{path}", self.endpoint));
        let answer = onward.headers(head.headers).body(body).send().await.map_err(failed)?;
        let mut back = Response::new(Body::empty());
        *back.status_mut() = answer.status();
        *back.headers_mut() = answer.headers().clone();
        for hop in [CONNECTION, TRANSFER_ENCODING] {
            back.headers_mut().remove(hop);
        }
        let whole: Bytes = answer.bytes().await.map_err(failed)?;
        if !asked_for_head {
            back.headers_mut().insert(CONTENT_LENGTH, whole.len().into());
        }
        *back.body_mut() = Body::from(whole);
        Ok(back)
    }
}

fn failed(error: reqwest::Error) -> HttpError {
    HttpError::new(Box::new(error))
}
