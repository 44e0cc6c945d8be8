//! What the commands share: arguments, how a command begins, its context, its output.

pub(crate) mod args;
pub(crate) mod context;
pub(crate) mod findings;
pub(crate) mod manual;
pub(crate) mod new_file;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod restore_words;
pub(crate) mod server_view;
pub(crate) mod start;
pub(crate) mod version;
