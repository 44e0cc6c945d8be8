//! A file that a command makes for the operator, and never over one that exists.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::disk::durable;
use crate::error::{Error, Result};

/// These bytes and no others, in a new file. R24: an existing key is never overwritten, and nobody else reads this one, not
/// even for a moment.
pub(crate) fn write_new(path: &Path, parts: &[&[u8]], hint: &str) -> Result<()> {
    let mut file =
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|cause| {
            let error = Error::io("create", path, &cause);
            if cause.kind() == std::io::ErrorKind::AlreadyExists {
                Error::impossible(format!("{} exists", path.display())).hint(hint)
            } else {
                error
            }
        })?;
    let written = parts.iter().try_for_each(|part| file.write_all(part)).and_then(|()| file.sync_all());
    if let Err(cause) = written {
        // Half a key would stand in the way of the next attempt.
        let _ = std::fs::remove_file(path);
        return Err(Error::io("write", path, &cause));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    durable::sync_dir(directory.unwrap_or(Path::new(".")))
}
