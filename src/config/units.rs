//! Durations, sizes and numbers of workers, as operators write them.

use std::time::Duration;

use crate::error::{Error, Result};

/// Anything longer is a mistake, and sums of it would overflow.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);
/// Anything more is a mistake: each takes memory and connections.
const MOST_WORKERS: usize = 256;

/// A duration such as "5s", "15m", "7d".
pub(super) fn duration(text: &str) -> Result<Duration> {
    let duration = humantime::parse_duration(text).map_err(|cause| {
        Error::usage(format!("\"{text}\" is not a duration: {cause}")).hint("write it like 5s, 15m, 1h or 7d")
    })?;
    if duration > LONGEST {
        return Err(Error::usage(format!("\"{text}\" is longer than a hundred years")));
    }
    Ok(duration)
}

/// A number of workers: `name` in messages.
pub(super) fn workers(name: &str, number: usize) -> Result<usize> {
    match number {
        0 => Err(Error::usage(format!("{name} is 0"))),
        1..=MOST_WORKERS => Ok(number),
        _ => Err(Error::usage(format!("{name} is {number}, more than {MOST_WORKERS}"))),
    }
}

/// A number of bytes such as "0", "50MB", "100MiB".
pub(super) fn bytes(text: &str) -> Result<u64> {
    let wrong = || {
        Error::usage(format!("\"{text}\" is not a number of bytes"))
            .hint("write it like 0, 500kB, 50MB or 100MiB")
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let number: u64 = trimmed[..digits].parse().map_err(|_| wrong())?;
    let unit = match trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}
