//! Asking the daemon whether a file is durable: what `wal-push` does first. No runtime, no configuration beyond the
//! socket's path: when the daemon has shipped the file already, this is all that happens.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::protocol::{Answer, Destination, Request};
use crate::disk::FileId;
use crate::error::Error;

/// A daemon that is silent for this long is as good as none. Every second it says that it is
/// working.
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

/// What a push is about.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The file.
    pub path: &'a Path,
    /// Of the cluster that it belongs to.
    pub system_identifier: u64,
    /// Where it has to go.
    pub destination: Destination,
}

/// Ask the daemon behind `socket`, for no longer than `patience`.
pub fn ask(socket: &Path, ask: Ask<'_>, patience: Duration) -> Asked {
    match converse(socket, ask, patience) {
        Ok(Answer::Stored) => Asked::Stored,
        Ok(Answer::Refused(error)) => Asked::Refused(error),
        Ok(Answer::Working) => Asked::DoItYourself("the daemon is not done yet".to_owned()),
        Ok(Answer::Declined(why)) | Err(why) => Asked::DoItYourself(why),
    }
}

fn converse(socket: &Path, ask: Ask<'_>, patience: Duration) -> Result<Answer, String> {
    let end = Instant::now() + patience;
    let text = |what: &str| {
        let what = what.to_owned();
        move |cause: std::io::Error| format!("{what}: {cause}")
    };
    let metadata = std::fs::metadata(ask.path).map_err(text("examine the file"))?;
    let path = std::path::absolute(ask.path).map_err(text("find the file"))?;
    let request = Request::Push {
        file: FileId::of(&metadata),
        system_identifier: ask.system_identifier,
        destination: ask.destination,
        path,
    };
    let line = request.to_line().ok_or_else(|| "the path holds a line break".to_owned())?;
    let conversation = Conversation { stream: connect(socket, metadata.uid(), patience)?, end };
    (&conversation.stream).write_all(line.as_bytes()).map_err(text("write to the daemon"))?;
    let mut answers = BufReader::with_capacity(512, conversation.take(LONGEST));
    let mut line = String::new();
    loop {
        line.clear();
        answers.read_line(&mut line).map_err(text("read from the daemon"))?;
        match Answer::parse(&line) {
            Some(Answer::Working) => {}
            Some(answer) => return Ok(answer),
            None if line.is_empty() => return Err("the daemon hung up".to_owned()),
            None => return Err("the daemon speaks another version".to_owned()),
        }
    }
}

/// What the daemon says until `end`: neither silence nor a trickle holds anybody up for longer.
struct Conversation {
    stream: UnixStream,
    end: Instant,
}

impl Read for Conversation {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the daemon is not done yet"));
        }
        self.stream.set_read_timeout(Some(SILENCE.min(left)))?;
        self.stream.read(buffer)
    }
}

/// Connect, and check that the listener may be believed: it runs as this very user, as root, or as
/// `owner`, whose file it is.
fn connect(socket: &Path, owner: u32, patience: Duration) -> Result<UnixStream, String> {
    let stream = connected(socket, patience.min(SILENCE)).map_err(|cause| format!("no daemon: {cause}"))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)
        .map_err(|cause| format!("ask which daemon this is: {cause}"))?;
    let is_owner = peer.uid.as_raw() == owner;
    if is_owner || peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        return Ok(stream);
    }
    Err(format!("the daemon runs as user {}, which is not trusted", peer.uid.as_raw()))
}

/// A connection whose calls, the first one included, end in time: while a daemon that hangs has its queue full,
/// connecting waits like writing does.
fn connected(socket: &Path, patience: Duration) -> rustix::io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, sockopt};
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Send, Some(patience))?;
    sockopt::set_socket_timeout(&stream, sockopt::Timeout::Recv, Some(patience))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(UnixStream::from(stream))
}

/// Send a request that is answered with one line, and give that line.
pub fn ask_for_line(socket: &Path, request: &Request, patience: Duration) -> Result<String, String> {
    let line = request.to_line().ok_or_else(|| "the request holds a line break".to_owned())?;
    // What is asked for here is shown, not believed in.
    let owner = std::fs::metadata(socket).map_err(|cause| format!("no daemon: {cause}"))?.uid();
    let end = Instant::now() + patience;
    let conversation = Conversation { stream: connect(socket, owner, patience)?, end };
    let failed = |cause: std::io::Error| format!("ask the daemon: {cause}");
    (&conversation.stream).write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(conversation.take(LONGEST)).read_line(&mut answer).map_err(failed)?;
    if answer.ends_with('\n') {
        return Ok(answer.trim_end().to_owned());
    }
    Err("the daemon hung up".to_owned())
}
