//! What `--version` says: which program this is, for a bug report and for whoever compares two hosts.

/// `walproof -V`: version and commit on one line.
pub(crate) const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("WALPROOF_REVISION"), ")");

/// `walproof --version`.
pub(crate) const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit    ",
    env!("WALPROOF_REVISION"),
    "\nfeatures  ",
    env!("WALPROOF_FEATURES"),
    "\nbuilt as  ",
    env!("WALPROOF_TARGET"),
    ", ",
    env!("WALPROOF_PROFILE"),
);
