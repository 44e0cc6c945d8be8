//! S3 credentials: from files, the environment, or systemd. Missing ones are an error at once: the library would
//! go on to ask a cloud's metadata address.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::rotation::Rotating;
use super::secret;
use crate::error::{Error, Result};
use crate::store::{CredentialSource, Credentials};

/// Find the credentials; those in files are read again when they change.
pub(super) fn find(id_file: Option<&Path>, secret_file: Option<&Path>) -> Result<Arc<dyn CredentialSource>> {
    let (id_file, secret_file) = (id_file.map(Path::to_owned), secret_file.map(Path::to_owned));
    let files = [(&id_file, ID), (&secret_file, SECRET)]
        .into_iter()
        .filter_map(|(file, origin)| match origin.find(file.as_deref()) {
            Found::File(path) => Some(path),
            Found::Variable(_) | Found::Nothing => None,
        })
        .collect();
    let read = move || read(id_file.as_deref(), secret_file.as_deref());
    Ok(Arc::new(Files(Rotating::new("the S3 credentials", files, read)?)))
}

#[derive(Debug)]
struct Files(Rotating<Credentials>);

impl CredentialSource for Files {
    fn current(&self) -> Arc<Credentials> {
        self.0.current()
    }
}

fn read(id_file: Option<&Path>, secret_file: Option<&Path>) -> Result<Credentials> {
    let session_token =
        std::env::var("AWS_SESSION_TOKEN").ok().filter(|_| id_file.is_none()).map(Zeroizing::new);
    Ok(Credentials {
        access_key_id: ID.read(id_file)?.to_string(),
        secret_access_key: SECRET.read(secret_file)?,
        session_token,
    })
}

/// Where one of the two may come from, besides the file that the configuration names.
#[derive(Debug, Clone, Copy)]
struct Origin {
    variable: &'static str,
    credential: &'static str,
}

const ID: Origin = Origin { variable: "AWS_ACCESS_KEY_ID", credential: "access_key_id" };
const SECRET: Origin = Origin { variable: "AWS_SECRET_ACCESS_KEY", credential: "secret_access_key" };

enum Found {
    File(PathBuf),
    Variable(Zeroizing<String>),
    Nothing,
}

impl Origin {
    fn find(self, file: Option<&Path>) -> Found {
        if let Some(file) = file {
            return Found::File(file.to_owned());
        }
        if let Ok(value) = std::env::var(self.variable) {
            return Found::Variable(Zeroizing::new(value));
        }
        secret::credential(self.credential).map_or(Found::Nothing, Found::File)
    }

    fn read(self, file: Option<&Path>) -> Result<Zeroizing<String>> {
        let what = self.credential.replace('_', " ");
        let text = match self.find(file) {
            Found::File(file) => secret::read(&file)?,
            Found::Variable(value) => value,
            Found::Nothing => {
                let Self { variable, credential } = self;
                return Err(Error::usage(format!("there is no S3 {what}")).hint(format!(
                    "set repository.{credential}_file, or {variable}, or LoadCredential={credential}:... in the unit"
                )));
            }
        };
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(Error::usage(format!("the S3 {what} is empty")));
        }
        Ok(Zeroizing::new(trimmed.to_owned()))
    }
}
