//! Reading secrets: from files that nobody else can read, from a command, from systemd's credentials (R24).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

const COMMAND_PATIENCE: Duration = Duration::from_secs(30);

/// A credential that systemd hands over (`LoadCredential=NAME:...`).
pub(super) fn credential(name: &str) -> Option<PathBuf> {
    let path = Path::new(&std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name);
    path.exists().then_some(path)
}

/// The text of a secret's file. Refused when others can read it; root may share its files with a group.
pub(super) fn read(path: &Path) -> Result<Zeroizing<String>> {
    let usage = |cause: std::io::Error| {
        let error = Error::usage(format!("read {}: {cause}", path.display()));
        match cause.kind() {
            std::io::ErrorKind::PermissionDenied => {
                error.hint("may the user that runs this (usually postgres) read it?")
            }
            std::io::ErrorKind::NotFound => {
                error.hint("does encryption.key_file, or the file with the credentials, have that name?")
            }
            _ => error,
        }
    };
    let metadata = std::fs::metadata(path).map_err(usage)?;
    if metadata.is_dir() {
        return Err(Error::usage(format!("{} is a directory, no file with a secret", path.display())));
    }
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    let from_systemd =
        std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.starts_with(directory));
    if metadata.mode() & forbidden != 0 && !from_systemd {
        return Err(Error::usage(format!(
            "{} can be read by others (mode {:04o})",
            path.display(),
            metadata.mode() & 0o7777
        ))
        .hint(format!("chmod 600 {}", path.display())));
    }
    let bytes = Zeroizing::new(std::fs::read(path).map_err(usage)?);
    let text =
        std::str::from_utf8(&bytes).map_err(|_| Error::usage(format!("{} is no text", path.display())))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What a shell command prints. Its output is never shown; what it says on stderr reaches the operator directly.
pub(super) fn output_of(command: &str) -> Result<Zeroizing<String>> {
    let failed = |what: String| {
        Error::usage(format!("encryption.key_command {what}"))
            .hint("does it work when run by hand as this user?")
    };
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|cause| failed(format!("cannot be run: {cause}")))?;
    let begin = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begin.elapsed() > COMMAND_PATIENCE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("does not end within {} s", COMMAND_PATIENCE.as_secs())));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(cause) => return Err(failed(format!("cannot be waited for: {cause}"))),
        }
    };
    if !status.success() {
        return Err(failed(format!("fails ({status})")));
    }
    let mut text = Zeroizing::new(String::new());
    let mut output =
        child.stdout.take().ok_or_else(|| Error::new(Kind::Other, "the key command has no output"))?;
    std::io::Read::read_to_string(&mut output, &mut text)
        .map_err(|cause| failed(format!("prints no text: {cause}")))?;
    Ok(text)
}
