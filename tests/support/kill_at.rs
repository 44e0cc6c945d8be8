//! `kill -9` at a system call that changes a file: the call of this number, counted over all threads, never happens.
//!
//! What changes nothing is not counted (a file opened that is there, a length or a permission set that it has): a process
//! killed there leaves what it left at the call before. Syncs are, for they are where a step of the work ends.

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use super::process::{TIMEOUT, command};

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Killed at the call.
    Killed,
    /// Before the call came: with this exit code, after so many calls.
    Exited { code: i32, calls: u64 },
}

/// Run `line` and kill it and all its threads at the call `number` (from 1) of those that change a file.
#[track_caller]
#[expect(clippy::zombie_processes, reason = "`follow` waits for it")]
pub fn kill_at(line: &Command, number: u64) -> Ended {
    // It stops itself, so that nothing happens before it is traced.
    let mut stopped = command("/bin/sh");
    stopped.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(line.get_program()).args(line.get_args());
    if let Some(dir) = line.get_current_dir() {
        stopped.current_dir(dir);
    }
    for (name, value) in line.get_envs() {
        stopped.env(name, value.unwrap_or_default());
    }
    stopped.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let child = stopped.spawn().expect("start a shell");
    let leader = Pid::from_raw(child.id().cast_signed());
    waitpid(leader, Some(WaitPidFlag::WUNTRACED)).expect("wait for the shell to stop");
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::seize(leader, options).expect("trace a process: does a container forbid it?");
    killpg(leader, Signal::SIGCONT).expect("let the shell go on");
    let (done, ended) = channel::<()>();
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(TIMEOUT).is_err() {
            let _ = killpg(leader, Signal::SIGKILL);
        }
    });
    let ended = follow(leader, number);
    let _ = done.send(());
    watch.join().expect("the watch ends");
    ended
}

/// Until the process has ended, which this waits for itself.
fn follow(leader: Pid, number: u64) -> Ended {
    let (mut calls, mut killed) = (0, false);
    loop {
        let all = Pid::from_raw(-leader.as_raw());
        let (thread, signal) = match waitpid(all, Some(WaitPidFlag::__WALL)).expect("wait for the process") {
            WaitStatus::Exited(pid, code) if pid == leader => return Ended::Exited { code, calls },
            WaitStatus::Signaled(pid, signal, _) if pid == leader => {
                assert!(killed, "it took longer than {TIMEOUT:?}, or died of {signal}");
                return Ended::Killed;
            }
            WaitStatus::PtraceSyscall(thread) => {
                let begins =
                    ptrace::syscall_info(thread).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
                if begins && !killed && Call::of(thread).is_some_and(|call| call.changes()) {
                    calls += 1;
                    if calls == number {
                        killed = true;
                        killpg(leader, Signal::SIGKILL).expect("kill the process");
                    }
                }
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            _ => continue,
        };
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(thread, signal);
    }
}

/// A call that a thread is about to make.
struct Call {
    thread: Pid,
    number: i64,
    arguments: [u64; 5],
}

impl Call {
    #[cfg(target_arch = "x86_64")]
    fn of(thread: Pid) -> Option<Self> {
        let registers = ptrace::getregs(thread).ok()?;
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8];
        Some(Self { thread, number: registers.orig_rax.cast_signed(), arguments })
    }

    #[cfg(target_arch = "aarch64")]
    fn of(thread: Pid) -> Option<Self> {
        let registers = ptrace::getregs(thread).ok()?.regs;
        let arguments = [registers[0], registers[1], registers[2], registers[3], registers[4]];
        Some(Self { thread, number: registers[8].cast_signed(), arguments })
    }

    fn changes(&self) -> bool {
        let [first, second, third, ..] = self.arguments;
        match self.number {
            libc::SYS_openat => self.opening_changes(second, third),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.opening_changes(first, second),
            libc::SYS_write
            | libc::SYS_pwrite64
            | libc::SYS_writev
            | libc::SYS_pwritev
            | libc::SYS_pwritev2
            | libc::SYS_fsync
            | libc::SYS_fdatasync
            | libc::SYS_syncfs => self.file(first).is_some(),
            libc::SYS_ftruncate => self.file(first).is_some_and(|file| file.len() != second),
            libc::SYS_fchmod => self.file(first).is_some_and(|file| has_not(&file, second)),
            libc::SYS_fchmodat => self.at(second).is_some_and(|file| has_not(&file, third)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chmod => self.at(first).is_some_and(|file| has_not(&file, second)),
            libc::SYS_mkdirat => self.at(second).is_none(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => self.at(first).is_none(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => self.at(first).is_some(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename | libc::SYS_rmdir | libc::SYS_symlink | libc::SYS_link => true,
            libc::SYS_renameat
            | libc::SYS_renameat2
            | libc::SYS_unlinkat
            | libc::SYS_symlinkat
            | libc::SYS_linkat => true,
            _ => false,
        }
    }

    fn opening_changes(&self, path: u64, flags: u64) -> bool {
        let has = |flag: i32| flags & u64::from(flag.cast_unsigned()) != 0;
        match self.at(path) {
            Some(file) => has(libc::O_TRUNC) && file.len() > 0,
            None => has(libc::O_CREAT),
        }
    }

    /// The file that a descriptor is open on, if it has a name.
    fn file(&self, descriptor: u64) -> Option<Metadata> {
        let link = PathBuf::from(format!("/proc/{}/fd/{descriptor}", self.thread));
        let name = std::fs::read_link(&link).ok()?;
        let has_name =
            name.is_absolute() && !name.starts_with("/dev/null") && std::fs::symlink_metadata(&name).is_ok();
        if has_name { std::fs::metadata(link).ok() } else { None }
    }

    /// What lies at the path that the process names.
    fn at(&self, address: u64) -> Option<Metadata> {
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut bytes = [0; 4096];
        let mut len = memory.read_at(&mut bytes, address).unwrap_or(0);
        if len == 0 {
            // The path lies at the end of what is mapped.
            len = memory.read_at(&mut bytes[..256], address).ok()?;
        }
        let end = bytes[..len].iter().position(|byte| *byte == 0)?;
        let path = PathBuf::from(OsString::from_vec(bytes[..end].to_vec()));
        let base = format!("/proc/{}/cwd", self.thread);
        std::fs::symlink_metadata(Path::new(&base).join(path)).ok()
    }
}

fn has_not(file: &Metadata, mode: u64) -> bool {
    u64::from(file.permissions().mode() & 0o7777) != mode
}
