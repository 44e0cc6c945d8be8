//! An S3 server inside the test process, on 127.0.0.1 and a port that the system chooses.
//!
//! With `WALPROOF_TEST_FAULTS_BEFORE` it stores nothing itself: the real server of [`S3Target`] stands behind its faults.
//!
//! `s3s-fs` stores plain files, so tests reach behind it with [`super::repo::Objects`]. Its object names are
//! also file names in base64: a key of more than about 160 bytes is refused.

pub use super::faults::{Action, Fault, Faults, Request, Verb};
pub use super::s3_target::{Location, S3Target};

use super::Scratch;
use super::repo::{Directory, Objects, Remote};
use super::s3_behind::Behind;
use super::s3_service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const BUCKET: &str = "walproof-test";
const ACCESS_KEY: &str = "AKIDRIGRIGRIGRIGRIG0";
const SECRET_KEY: &str = "rig/secret+key0rig/secret+key0rig/secret";

/// The server and its bucket: `s3.faults().add(Fault::reset().on(Verb::Put).nth(2))`.
/// Dropped, it stops; its objects are gone when the last [`super::Repo`] in it is.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    faults: Faults,
    root: Arc<Scratch>,
    /// The server that stores, where that is another.
    behind: Option<Location>,
    runtime: Option<Runtime>,
}

impl S3Server {
    #[track_caller]
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST)
    }

    /// Where more than this machine's own processes reach it: hosts in containers.
    #[track_caller]
    pub fn start_on(ip: Ipv4Addr) -> Self {
        let root = Arc::new(Scratch::new());
        std::fs::create_dir(root.join(BUCKET)).expect("create the bucket");
        let address = SocketAddr::from((ip, 0));
        let behind = std::env::var_os("WALPROOF_TEST_FAULTS_BEFORE").map(|_| Location::from_env());
        let mut server = Self { address, faults: Faults::default(), root, behind, runtime: None };
        server.restart();
        server
    }

    /// Stop serving: connections break, new ones are refused. The objects stay.
    pub fn stop(&mut self) -> &mut Self {
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own: in an async test, waiting here would panic.
            let wait = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(10)));
            wait.join().expect("stop the S3 server");
        }
        self
    }

    /// Serve again, on the same port.
    #[track_caller]
    pub fn restart(&mut self) -> &mut Self {
        self.stop();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("start the S3 server's runtime");
        let mut bound = None;
        super::wait_until("the S3 server's port is free", Duration::from_secs(10), || {
            bound = std::net::TcpListener::bind(self.address).ok();
            bound.is_some()
        });
        let bound = bound.expect("just bound");
        bound.set_nonblocking(true).expect("make the listener non-blocking");
        self.address = bound.local_addr().expect("port of the S3 server");
        let context = runtime.enter();
        let listener = TcpListener::from_std(bound).expect("hand the listener to the runtime");
        let faults = self.faults.clone();
        let service = match &self.behind {
            Some(server) => Service::before(Behind::new(&server.endpoint), &server.bucket, faults),
            None => Service::new(self.root.path(), BUCKET, ACCESS_KEY, SECRET_KEY, faults),
        };
        tokio::spawn(accept(listener, service));
        drop(context);
        self.runtime = Some(runtime);
        self
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// How a client reaches it; keys of the repository start with `prefix`.
    pub fn location(&self) -> Location {
        let endpoint = format!("http://{}", self.address);
        if let Some(server) = &self.behind {
            return Location { endpoint, ..server.clone() };
        }
        Location {
            endpoint,
            region: "us-east-1".into(),
            bucket: BUCKET.into(),
            prefix: "pg".into(),
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
        }
    }

    /// All objects of the bucket, behind the server's back. It outlives the server.
    pub fn objects(&self) -> Arc<dyn Objects> {
        match &self.behind {
            Some(server) => Arc::new(Remote::new(server)),
            None => Arc::new(Directory::new(self.bucket_dir(), Arc::clone(&self.root))),
        }
    }

    fn bucket_dir(&self) -> PathBuf {
        self.root.join(BUCKET)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Not shutdown_timeout: a test's own runtime may be dropping us, where blocking panics.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, service: Service) {
    let http = auto::Builder::new(TokioExecutor::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let Ok((stream, hook)) = Hook::attach(stream) else { continue };
        let http = http.clone();
        let service = service.clone();
        tokio::spawn(async move {
            let handler = hyper::service::service_fn(move |request| {
                let (service, hook) = (service.clone(), hook.clone());
                async move { service.answer(request, &hook).await }
            });
            // It ends in an error whenever a fault breaks it.
            let _ = http.serve_connection(TokioIo::new(stream), handler).await;
        });
    }
}

/// A second handle on a connection's socket, to make its close a reset.
#[derive(Debug, Clone)]
pub struct Hook(Arc<std::net::TcpStream>);

impl Hook {
    fn attach(stream: tokio::net::TcpStream) -> std::io::Result<(tokio::net::TcpStream, Self)> {
        let stream = stream.into_std()?;
        let hook = Self(Arc::new(stream.try_clone()?));
        Ok((tokio::net::TcpStream::from_std(stream)?, hook))
    }

    /// The close that follows discards what is unsent and sends RST.
    pub fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&*self.0, Some(Duration::ZERO));
    }
}
