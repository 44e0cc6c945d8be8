//! Words for the operator: results on stdout, everything else on stderr.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::json;

use super::start::logs_json;
use crate::error::{Error, Kind, Result};
pub(crate) use crate::present::size;

/// Write a line of a result.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.as_ref()) {
        // Whoever reads has seen enough (`| head`).
        Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|cause| Error::new(Kind::Other, format!("write to stdout: {cause}"))),
    }
}

/// So many objects.
pub(crate) fn objects(count: u64) -> String {
    if count == 1 { "1 object".to_owned() } else { format!("{count} objects") }
}

/// Whether the one JSON document is written.
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// Write the one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    WRITTEN.store(true, Ordering::Relaxed);
    let text = serde_json::to_string_pretty(value)
        .map_err(|cause| Error::new(Kind::Other, format!("write JSON: {cause}")))?;
    line(text)
}

/// Write the error as the one JSON document, unless there is one: a result that comes with an error.
pub(crate) fn json_error(error: &Error, exit_code: u8) {
    if WRITTEN.load(Ordering::Relaxed) {
        return;
    }
    let (kind, message, hint) = (error.kind().name(), error.to_string(), error.hint_text());
    let document = json!({
        "error": { "kind": kind, "exit_code": exit_code, "message": message, "hint": hint }
    });
    // Where stdout is full the exit code still tells.
    let _ = json(&document);
}

/// Say an error, and its hint on a second line; where the log is JSON, as its last object.
pub(crate) fn complain(error: &Error) {
    if logs_json() {
        tracing::error!(hint = error.hint_text(), "{error}");
        return;
    }
    let mut stderr = std::io::stderr().lock();
    // On a full disk the exit code still tells; `eprintln!` would panic and take that away, too.
    let _ = writeln!(stderr, "walproof: error: {error}");
    if let Some(hint) = error.hint_text() {
        let _ = writeln!(stderr, "walproof: hint: {hint}");
    }
}

/// A table with aligned columns.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
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
