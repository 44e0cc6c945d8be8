//! stub
use super::counters::Counters;
use super::snapshot::Snapshot;
use crate::error::Result;
use std::sync::Arc;
pub trait Answers: Send + Sync {
    fn counters(&self) -> &Counters;
}
pub(super) async fn bind(a: std::net::SocketAddr) -> Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(a).await.map_err(|c| crate::error::Error::usage(c.to_string()))
}
pub(super) async fn serve(_l: tokio::net::TcpListener, _a: Arc<dyn Answers>) {
    std::future::pending().await
}
