//! Who we are to an S3 service. Keys are rotated while a daemon runs, so they are asked for with every request.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use zeroize::Zeroizing;

/// S3 credentials; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: Zeroizing<String>,
    /// Session token of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// Where credentials come from.
pub trait CredentialSource: fmt::Debug + Send + Sync {
    /// Those that hold now. Asked before every request: it must be quick, and has something to say in any case.
    fn current(&self) -> Arc<Credentials>;
}

/// Credentials that stay as they are.
impl CredentialSource for Arc<Credentials> {
    fn current(&self) -> Arc<Credentials> {
        Self::clone(self)
    }
}

/// The library's view of a source.
#[derive(Debug)]
pub(super) struct Provider {
    source: Arc<dyn CredentialSource>,
    last: Mutex<Option<(Arc<Credentials>, Arc<AwsCredential>)>>,
}

impl Provider {
    pub(super) fn new(source: Arc<dyn CredentialSource>) -> Self {
        Self { source, last: Mutex::new(None) }
    }

    pub(super) fn credential(&self) -> Arc<AwsCredential> {
        let now = self.source.current();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, credential)) = last.as_ref().filter(|(source, _)| Arc::ptr_eq(source, &now)) {
            return Arc::clone(credential);
        }
        let credential = Arc::new(AwsCredential {
            key_id: now.access_key_id.clone(),
            secret_key: now.secret_access_key.to_string(),
            token: now.session_token.as_ref().map(|token| token.to_string()),
        });
        *last = Some((now, Arc::clone(&credential)));
        credential
    }
}

impl CredentialProvider for Provider {
    type Credential = AwsCredential;

    fn get_credential<'a, 'b>(&'a self) -> BoxFuture<'b, object_store::Result<Arc<AwsCredential>>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(std::future::ready(Ok(self.credential())))
    }
}
