//! Child processes that cannot hang a test, leak the tester's environment or outlive the test.

use super::account::Account;
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// No call takes longer than this unless its test says so.
pub const TIMEOUT: Duration = Duration::from_mins(2);

/// What the rig lets through from the tester's environment: where programs and temporary files are, and
/// the file that coverage tools have children write. No AWS_*, PG*, WALPROOF_*, TZ, locale or proxy.
const PASSED_ON: [&str; 4] = ["PATH", "TMPDIR", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"];

/// A command as the unprivileged account with a clean environment, `LC_ALL=C`, in `/`.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("HOME", "/nonexistent").current_dir("/");
    for name in PASSED_ON {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    Account::get().apply(&mut command);
    command
}

/// Run to the end; after `limit` everything it started is killed and the test fails.
#[track_caller]
pub fn run(command: Command, input: &[u8], limit: Duration) -> Output {
    Running::start(command, input).wait(limit)
}

/// A started command. Its streams go to unnamed files, so no full pipe blocks it and no grandchild that
/// keeps a pipe open blocks us. It leads a process group; dropped while running, the group is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    stdout: File,
    stderr: File,
    done: bool,
}

impl Running {
    #[track_caller]
    pub fn start(mut command: Command, input: &[u8]) -> Self {
        let mut stdin = tempfile::tempfile().expect("file for stdin");
        stdin.write_all(input).and_then(|()| stdin.rewind()).expect("write stdin");
        let stdout = tempfile::tempfile().expect("file for stdout");
        let stderr = tempfile::tempfile().expect("file for stderr");
        command
            .stdin(Stdio::from(stdin))
            .stdout(stdout.try_clone().expect("share stdout"))
            .stderr(stderr.try_clone().expect("share stderr"))
            .process_group(0);
        let line = line_of(&command);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {line}: {error}"));
        Self { child, line, stdout, stderr, done: false }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stdout up to now.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&content(&self.stdout)).into_owned()
    }

    /// What it wrote to stderr up to now.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&content(&self.stderr)).into_owned()
    }

    /// The status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("wait for a child");
        self.done |= status.is_some();
        status
    }

    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        let mut status = None;
        super::holds_within(limit, || {
            status = self.ended();
            status.is_some()
        });
        let Some(status) = status else {
            self.kill_group();
            panic!("still running after {limit:?}: {}\n{}", self.line, self.streams());
        };
        Output {
            line: self.line.clone(),
            status,
            stdout: content(&self.stdout),
            stderr: content(&self.stderr),
        }
    }

    /// Wait until stderr contains `text`; fails if it ends before or takes longer than `limit`.
    #[track_caller]
    pub fn wait_for_stderr(&mut self, text: &str, limit: Duration) {
        let found = super::holds_within(limit, || self.stderr().contains(text) || self.ended().is_some());
        let seen = self.stderr().contains(text);
        assert!(found && seen, "{} did not say {text:?}\n{}", self.line, self.streams());
    }

    /// SIGKILL it and all it started, as the OOM killer or a power cut would.
    #[track_caller]
    pub fn kill9(mut self) -> Output {
        self.kill_group();
        self.wait(Duration::from_secs(30))
    }

    /// SIGTERM, as systemd stops a service; then wait.
    #[track_caller]
    pub fn terminate(self, limit: Duration) -> Output {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Send `signal` to the process alone, not to its group.
    pub fn signal(&self, signal: Signal) {
        // It may just have ended; whoever waits next sees that.
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
    }

    fn kill_group(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }

    fn streams(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}

/// How a command ended. Every expectation prints the command and both streams when it is not met.
#[derive(Debug, Clone)]
pub struct Output {
    line: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// The exit code; a death by signal N reads as 128 + N, as a shell and PostgreSQL see it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn stdout_bytes(&self) -> &[u8] {
        &self.stdout
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// stdout as one JSON document.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }

    /// Expect exit code 0.
    #[track_caller]
    pub fn success(&self) -> &Self {
        self.exits_with(0)
    }

    /// Expect this exit code, which is not 0.
    #[track_caller]
    pub fn fails_with(&self, code: i32) -> &Self {
        assert_ne!(code, 0, "use success()");
        self.exits_with(code)
    }

    #[track_caller]
    fn exits_with(&self, code: i32) -> &Self {
        assert!(self.code() == code, "expected exit code {code}: {self}");
        self
    }

    #[track_caller]
    pub fn stderr_contains(&self, text: &str) -> &Self {
        assert!(self.stderr().contains(text), "expected {text:?} on stderr: {self}");
        self
    }

    #[track_caller]
    pub fn stdout_contains(&self, text: &str) -> &Self {
        assert!(self.stdout().contains(text), "expected {text:?} on stdout: {self}");
        self
    }

    /// Expect that a secret, or anything else, is on neither stream.
    #[track_caller]
    pub fn says_nowhere(&self, text: &str) -> &Self {
        assert!(
            !self.stdout().contains(text) && !self.stderr().contains(text),
            "did not expect {text:?}: {self}"
        );
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (code, stdout, stderr) = (self.code(), self.stdout(), self.stderr());
        write!(f, "{} exited with {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.line)
    }
}

/// The most memory that a running process has had, in bytes.
#[track_caller]
pub fn peak_memory(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// The memory that a running process has now, in bytes.
#[track_caller]
pub fn resident_memory(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

#[track_caller]
fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.expect(field) << 10
}

/// Read from the start without moving the offset that the child writes at.
fn content(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let len = file.metadata().map_or(0, |meta| meta.len());
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).expect("read back a stream");
    bytes
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
