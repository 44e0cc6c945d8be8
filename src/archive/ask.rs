//! Asking the daemon whether a file is durable: what `wal-push` does first. No runtime, no configuration beyond the
//! socket's path: when the daemon has shipped the file already, this is all that happens.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::protocol::{Answer, Request};
use crate::error::Error;

/// A daemon that says nothing for so long is as good as none. It says that it works every second.
const SILENCE: Duration = Duration::from_secs(4);
/// Longest answer that is read: errors are a line; a snapshot with its recent files is a few hundred lines at most.
const LONGEST: u64 = 1 << 20;

/// What came of asking.
#[derive(Debug)]
pub enum Asked {
    /// The file is durable in the repository.
    Stored,
    /// It cannot be stored, and trying again would not change that.
    Refused(Error),
    /// There is no daemon that could say: do the work. Why, for the log.
    DoItYourself(String),
}

/// Ask the daemon behind `socket` for the file at `path`, for no longer than `patience`.
pub fn ask(socket: &Path, path: &Path, patience: Duration) -> Asked {
    match converse(socket, path, patience) {
        Ok(Answer::Stored) => Asked::Stored,
        Ok(Answer::Refused(error)) => Asked::Refused(error),
        Ok(Answer::Working) => Asked::DoItYourself("the daemon is not done yet".to_owned()),
        Ok(Answer::Declined(why)) | Err(why) => Asked::DoItYourself(why),
    }
}

fn converse(socket: &Path, path: &Path, patience: Duration) -> Result<Answer, String> {
    let end = Instant::now() + patience;
    let text = |what: &str| {
        let what = what.to_owned();
        move |cause: std::io::Error| format!("{what}: {cause}")
    };
    let metadata = std::fs::metadata(path).map_err(text("examine the file"))?;
    let path = std::path::absolute(path).map_err(text("find the file"))?;
    let request = Request::Push { file: (metadata.dev(), metadata.ino()), path };
    let line = request.to_line().ok_or_else(|| "the path holds a line break".to_owned())?;
    let stream = connect(socket, metadata.uid())?;
    stream.set_read_timeout(Some(SILENCE)).map_err(text("set a deadline"))?;
    stream.set_write_timeout(Some(SILENCE)).map_err(text("set a deadline"))?;
    (&stream).write_all(line.as_bytes()).map_err(text("write to the daemon"))?;
    let mut answers = BufReader::with_capacity(512, (&stream).take(LONGEST));
    let mut line = String::new();
    loop {
        line.clear();
        answers.read_line(&mut line).map_err(text("read from the daemon"))?;
        match Answer::parse(&line) {
            Some(Answer::Working) if Instant::now() < end => {}
            Some(answer) => return Ok(answer),
            None if line.is_empty() => return Err("the daemon hung up".to_owned()),
            None => return Err("the daemon speaks another version".to_owned()),
        }
    }
}

/// Connect, and see that whoever listens may be believed: this very user, root, or `owner`, whose file it is.
fn connect(socket: &Path, owner: u32) -> Result<UnixStream, String> {
    let stream = UnixStream::connect(socket).map_err(|cause| format!("no daemon: {cause}"))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)
        .map_err(|cause| format!("ask who the daemon is: {cause}"))?;
    let is_owner = peer.uid.as_raw() == owner;
    if is_owner || peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        return Ok(stream);
    }
    Err(format!("the daemon runs as user {}, who is not believed", peer.uid.as_raw()))
}

/// Send a request that is answered with one line, and give that line.
pub fn ask_for_line(socket: &Path, request: &Request, patience: Duration) -> Result<String, String> {
    let line = request.to_line().ok_or_else(|| "the request holds a line break".to_owned())?;
    // What is asked for here is shown, not believed in.
    let owner = std::fs::metadata(socket).map_err(|cause| format!("no daemon: {cause}"))?.uid();
    let stream = connect(socket, owner)?;
    let failed = |cause: std::io::Error| format!("ask the daemon: {cause}");
    stream.set_read_timeout(Some(patience)).map_err(failed)?;
    stream.set_write_timeout(Some(patience)).map_err(failed)?;
    (&stream).write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new((&stream).take(LONGEST)).read_line(&mut answer).map_err(failed)?;
    if answer.ends_with('\n') {
        return Ok(answer.trim_end().to_owned());
    }
    Err("the daemon hung up".to_owned())
}
