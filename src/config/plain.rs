//! The two settings that `wal-push` needs to ask the daemon, read without a TOML parser. Only files that are as plain as
//! the example are understood; for all others the answer is that they are not, and the whole configuration is read.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// `archive.socket` and `archive.timeout` (zero where it is not set) of the configuration at `path`, if that is plain.
pub fn plain_socket(path: &Path) -> Option<(PathBuf, Duration)> {
    socket_in(&std::fs::read_to_string(path).ok()?)
}

fn socket_in(text: &str) -> Option<(PathBuf, Duration)> {
    let mut section = "";
    let (mut name, mut socket, mut timeout) = (None, None, Duration::ZERO);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            section = header.split_once(']')?.0.trim();
            continue;
        }
        let (key, value) = line.split_once('=')?;
        match (section, key.trim()) {
            // Dotted and quoted keys may name anything.
            (_, key) if key.contains(['.', '"', '\'']) => return None,
            ("cluster", "name") => name = Some(plain_text(value)?),
            ("archive", "socket") => socket = Some(PathBuf::from(plain_text(value)?)),
            ("archive", "timeout") => timeout = seconds(plain_text(value)?)?,
            // Text over several lines could hold what looks like a setting; inline tables could hold one.
            _ if value.contains("\"\"\"") || value.contains("'''") || value.contains('{') => return None,
            _ => {}
        }
    }
    let socket = socket.or_else(|| Some(PathBuf::from(format!("/run/walproof/{}.sock", name?))))?;
    Some((socket, timeout))
}

/// A text in double quotes without escapes, and a comment at most behind it.
fn plain_text(value: &str) -> Option<&str> {
    let (text, rest) = value.trim().strip_prefix('"')?.split_once('"')?;
    let rest = rest.trim();
    (!text.contains('\\') && (rest.is_empty() || rest.starts_with('#'))).then_some(text)
}

fn seconds(text: &str) -> Option<Duration> {
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_files_are_understood_as_the_whole_configuration_is() {
        let text = include_str!("../../config/walproof.toml");
        let config = super::super::Config::parse(text, Path::new("/c")).unwrap();
        assert_eq!(socket_in(text), Some((config.archive.socket, config.archive.timeout)));
        let short =
            "[cluster]\nname = \"main\" # x\n[archive]\nconcurrency = 4\n[[drill.query]]\nname = \"x\"\n";
        assert_eq!(socket_in(short), Some(("/run/walproof/main.sock".into(), Duration::ZERO)));
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_parser() {
        for text in [
            "archive.socket = \"/a\"",
            "archive = { socket = \"/a\" }",
            "[archive]\nsocket = '/a'",
            "[archive]\nsocket = \"\\u0041\"",
            "[archive]\ntimeout = \"1m\"\nsocket = \"/a\"",
            "[cluster]\nname = \"\"\"\n[archive]",
            "[archive]\nconcurrency = 4",
            "nonsense",
        ] {
            assert_eq!(socket_in(text), None, "{text}");
        }
    }
}
