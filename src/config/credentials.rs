//! S3 credentials: from files, the environment, or systemd. Missing ones are an error at once: the library would
//! go on to ask a cloud's metadata address.

use std::path::Path;

use zeroize::Zeroizing;

use super::secret;
use crate::error::{Error, Result};
use crate::store::Credentials;

/// Find the credentials.
pub(super) fn find(id_file: Option<&Path>, secret_file: Option<&Path>) -> Result<Credentials> {
    let access_key_id = one(id_file, "AWS_ACCESS_KEY_ID", "access_key_id")?;
    let secret_access_key = one(secret_file, "AWS_SECRET_ACCESS_KEY", "secret_access_key")?;
    let session_token =
        std::env::var("AWS_SESSION_TOKEN").ok().filter(|_| id_file.is_none()).map(Zeroizing::new);
    Ok(Credentials { access_key_id: access_key_id.to_string(), secret_access_key, session_token })
}

fn one(file: Option<&Path>, variable: &str, credential: &str) -> Result<Zeroizing<String>> {
    let text = if let Some(file) = file {
        secret::read(file)?
    } else if let Ok(value) = std::env::var(variable) {
        Zeroizing::new(value)
    } else if let Some(file) = secret::credential(credential) {
        secret::read(&file)?
    } else {
        return Err(Error::usage(format!("there is no S3 {}", credential.replace('_', " "))).hint(format!(
            "set repository.{credential}_file, or {variable}, or LoadCredential={credential}:... in the unit"
        )));
    };
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Error::usage(format!("the S3 {} is empty", credential.replace('_', " "))));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}
