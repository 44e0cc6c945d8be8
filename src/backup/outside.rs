//! Configuration that lies outside the data directory, as on Debian: kept with the backup for the operator.

use std::path::Path;

use crate::cluster::ServerInfo;
use crate::format::OutsideFile;

/// A longer file is not configuration.
const LONGEST: u64 = 1 << 20;

/// The server's configuration files that are not in its data directory. One that cannot be read is left out with a
/// warning: the backup is good without it.
pub(super) fn outside_files(info: &ServerInfo) -> Vec<OutsideFile> {
    let outside = [&info.config_file, &info.hba_file, &info.ident_file]
        .into_iter()
        .filter(|path| !path.as_os_str().is_empty() && !path.starts_with(&info.data_directory));
    outside.filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<OutsideFile> {
    let text = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() <= LONGEST => std::fs::read(path),
        Ok(_) => return None,
        Err(error) => Err(error),
    };
    match text {
        Ok(text) => Some(OutsideFile { path: path.into(), text: text.into() }),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot keep this configuration file with the backup");
            None
        }
    }
}
