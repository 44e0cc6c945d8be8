//! What happens between hosts: failover, an old primary that comes back, a store that is cut off or slow, a disk that is full,
//! clocks apart. Each host is a container with the package installed; the store is in this process, reached over the hosts'
//! network. Run by `scripts/test --containers`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]
#![allow(unreachable_pub, reason = "no API outside the tests")]

mod accidents;
mod clocks;
mod docker;
mod failover;
mod site;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

/// Generous: the machine may be busy. What was measured is printed.
const LONG: Duration = Duration::from_mins(3);
