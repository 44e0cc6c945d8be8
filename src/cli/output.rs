//! Words for the operator: results on stdout, everything else on stderr.

use std::io::Write;

use serde::Serialize;

use super::start::logs_json;
use crate::error::{Error, Kind, Result};

/// Write a line of a result.
pub(super) fn line(text: impl AsRef<str>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.as_ref()) {
        // Whoever reads has seen enough (`| head`).
        Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|cause| Error::new(Kind::Other, format!("write to stdout: {cause}"))),
    }
}

/// Write the one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|cause| Error::new(Kind::Other, format!("write JSON: {cause}")))?;
    line(text)
}

/// Say an error, and its hint on a second line; where the log is JSON, as its last object.
#[expect(clippy::print_stderr, reason = "the one place that speaks to the operator's terminal")]
pub(super) fn complain(error: &Error) {
    if logs_json() {
        tracing::error!(hint = error.hint_text(), "{error}");
        return;
    }
    eprintln!("walproof: error: {error}");
    if let Some(hint) = error.hint_text() {
        eprintln!("walproof: hint: {hint}");
    }
}

/// Bytes for people: 1.5 GiB.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    String::new()
}

/// A table with aligned columns.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 40), "5.0 TiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
