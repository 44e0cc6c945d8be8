//! Reading secrets: from files that nobody else can read, from a command, from systemd's credentials (R24).

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// A key command may take so long, unless its caller has less time.
pub(super) const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// A key file of a few lines is far shorter.
const LONGEST_OUTPUT: usize = 64 << 10;

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
        return Err(Error::usage(format!("{} is a directory, not a file with a secret", path.display())));
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
        std::str::from_utf8(&bytes).map_err(|_| Error::usage(format!("{} is not text", path.display())))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What a shell command prints. Its output is never shown; what it says on stderr reaches the operator directly. It has
/// `patience` to end; whatever it started and left behind in its process group ends with it.
pub(super) fn output_of(command: &str, patience: Duration) -> Result<Zeroizing<String>> {
    let failed = |what: String| {
        Error::usage(format!("encryption.key_command {what}"))
            .hint("does it work when run by hand as this user?")
    };
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|cause| failed(format!("cannot be run: {cause}")))?;
    let mut group = Group(child);
    let output = group.0.stdout.take();
    let mut output = output.ok_or_else(|| Error::new(Kind::Other, "the key command has no output"))?;
    let cannot_read = |cause: std::io::Error| failed(format!("cannot be read: {cause}"));
    // A child that was left behind may hold the pipe open for ever.
    rustix::io::ioctl_fionbio(&output, true).map_err(|cause| cannot_read(cause.into()))?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_OUTPUT + 1));
    let end = Instant::now() + patience;
    let status = loop {
        // First this, then the reading: what was printed before the end is read after it.
        let status = group.0.try_wait().map_err(|cause| failed(format!("cannot be waited for: {cause}")))?;
        read_available(&mut output, &mut bytes).map_err(cannot_read)?;
        if bytes.len() > LONGEST_OUTPUT {
            return Err(failed(format!("prints more than {} KiB", LONGEST_OUTPUT >> 10)));
        }
        if let Some(status) = status {
            break status;
        }
        if Instant::now() >= end {
            let allowed = humantime::format_duration(patience);
            return Err(failed(format!("did not finish within {allowed}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if !status.success() {
        return Err(failed(format!("fails ({status})")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("does not print text".to_owned()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A command with all that it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        // Nothing of it may be left: then there is nothing to kill.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Append what can be read now, up to one byte more than is allowed.
fn read_available(output: &mut ChildStdout, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = Zeroizing::new([0; 4096]);
    while bytes.len() <= LONGEST_OUTPUT {
        let room = (LONGEST_OUTPUT + 1 - bytes.len()).min(buffer.len());
        match output.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_key_command_prints_the_key() {
        assert_eq!(*output_of("echo a; echo b", LONG).unwrap(), "a\nb\n");
        let error = output_of("echo secret; exit 3", LONG).unwrap_err();
        assert!(error.to_string().contains("exit status: 3") && !error.to_string().contains("secret"));
        output_of("printf '\\377'", LONG).unwrap_err();
    }

    #[test]
    fn r5_a_key_command_ends_in_time_whatever_it_leaves_behind() {
        let begin = Instant::now();
        // A child that holds the pipe.
        assert_eq!(*output_of("sleep 60 & echo key", LONG).unwrap(), "key\n");
        let endless = output_of("yes", LONG).unwrap_err();
        assert!(endless.to_string().contains("more than 64 KiB"), "{endless}");
        let hangs = output_of("sleep 60; echo key", Duration::from_millis(200)).unwrap_err();
        assert!(hangs.to_string().contains("did not finish within 200ms"), "{hangs}");
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_a_key_command_started_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        output_of(&format!("sleep 60 & echo $! > {}", file.display()), LONG).unwrap();
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let begin = Instant::now();
        // Gone, or a zombie that nobody has fetched yet.
        while !stat().is_empty() && !stat().contains(") Z ") {
            assert!(begin.elapsed() < LONG, "{}", stat());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
