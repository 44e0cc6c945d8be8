//! `keygen`: a new key.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{args::Global, output, start};
use crate::disk::durable;
use crate::error::{Error, Result};
use crate::seal::MasterKey;

pub(super) fn keygen(global: &Global, to: Option<&Path>) -> Result<u8> {
    start::log(global, false, LevelFilter::WARN);
    let text = MasterKey::generate()?.to_text();
    let Some(path) = to else {
        if global.json {
            output::json(&json!({ "key": text.as_str() }))?;
        } else {
            output::line(text.as_str())?;
        }
        return Ok(0);
    };
    let hint = "a key in use must never be replaced; choose another name for a new one";
    write_new(path, &[text.as_bytes(), b"\n"], hint)?;
    if global.json {
        output::json(&json!({ "file": path.to_string_lossy() }))?;
    } else {
        output::line(format!(
            "a new key is in {}; keep a copy elsewhere: without it nothing can be restored",
            path.display()
        ))?;
    }
    Ok(0)
}

/// These bytes and no others, in a new file. R24: an existing key is never overwritten, and nobody else reads this one, not
/// even for a moment.
pub(super) fn write_new(path: &Path, parts: &[&[u8]], hint: &str) -> Result<()> {
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
