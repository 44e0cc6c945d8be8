//! What operators, PostgreSQL and faults do, against the compiled program. One binary: the rig is large to link.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

#[path = "../support/mod.rs"]
mod support;

mod backup;
mod backup_hazards;
mod claims;
mod daemon;
mod daemon_faults;
mod damage;
mod damage_ground;
mod delta;
mod disaster;
mod drill;
mod drill_isolation;
mod drill_shown;
mod exit_codes;
mod extents;
mod handover;
mod increments;
mod increments_under_load;
mod init;
mod kill;
mod kill_at_calls;
mod lease;
mod made_anew;
mod monitoring;
mod network;
mod operator;
mod pitr;
mod prefetch;
mod put_back;
mod restore;
mod retention;
mod rig;
mod rotation;
mod scale;
mod shapes;
mod standby_backup;
mod store;
mod store_faults;
mod stores;
mod tail;
mod tamper;
mod two_lives;
mod unread;
mod verify;
mod wal;
