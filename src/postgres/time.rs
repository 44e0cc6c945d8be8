//! Instants as PostgreSQL's WAL carries them.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Microseconds between the Unix epoch and PostgreSQL's, 2000-01-01 (datatype/timestamp.h).
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// An instant in microseconds, the resolution of PostgreSQL's timestamps. Shown in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PgTime(i64);

impl PgTime {
    /// From microseconds since the Unix epoch.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From microseconds since PostgreSQL's epoch, a `TimestampTz`.
    pub const fn from_postgres_micros(micros: i64) -> Self {
        Self(micros.saturating_add(POSTGRES_EPOCH))
    }

    /// Now, by this host's clock.
    pub fn now() -> Self {
        Self(Timestamp::now().as_microsecond())
    }

    /// Microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }

    /// As a timestamp of the time library; instants beyond its range are cut to it.
    pub fn timestamp(self) -> Timestamp {
        let limit = if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::from_microsecond(self.0).unwrap_or(limit)
    }

    /// As `recovery_target_time` takes it, in any time zone and date style.
    pub fn for_recovery_target(self) -> String {
        self.timestamp().strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string()
    }

    /// Seconds from `earlier` to here; negative if it is later.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of centuries fit")]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0) as f64 / 1e6
    }
}

impl From<Timestamp> for PgTime {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp.as_microsecond())
    }
}

impl fmt::Display for PgTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.timestamp().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
    }
}

impl FromStr for PgTime {
    type Err = Error;

    /// RFC 3339, or PostgreSQL's text form (`2026-11-22 13:00:00.12+01`). The offset from UTC must be there.
    fn from_str(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        let utc = trimmed
            .strip_suffix("UTC")
            .or_else(|| trimmed.strip_suffix("GMT"))
            .map(|rest| format!("{}Z", rest.trim_end()));
        let candidate = utc.unwrap_or_else(|| trimmed.to_owned());
        if let Ok(timestamp) = candidate.parse::<Timestamp>() {
            return Ok(timestamp.into());
        }
        let error = Error::usage(format!("\"{text}\" is not an instant"));
        Err(if candidate.parse::<jiff::civil::DateTime>().is_ok() {
            error.context("the offset from UTC is missing").hint("write it, as in 2026-11-22T13:00:00+01:00 or ...Z; a guessed time zone would restore another moment")
        } else {
            error.hint("write it as 2026-11-22T13:00:00+01:00 or 2026-11-22T12:00:00Z")
        })
    }
}

impl TryFrom<String> for PgTime {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PgTime> for String {
    fn from(time: PgTime) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_an_instant_means_the_same() {
        let expected = PgTime::from_unix_micros(1_795_348_800_120_000);
        for text in [
            "2026-11-22T12:00:00.12Z",
            "2026-11-22T13:00:00.120000+01:00",
            "2026-11-22 13:00:00.12+01",
            "2026-11-22 17:30:00.12+05:30",
            "2026-11-22 12:00:00.12 UTC",
            "2026-11-22 12:00:00.12+00",
        ] {
            assert_eq!(text.parse::<PgTime>().unwrap(), expected, "{text}");
        }
        assert_eq!(expected.to_string(), "2026-11-22T12:00:00.120000Z");
        assert_eq!(expected.for_recovery_target(), "2026-11-22 12:00:00.120000+00");
        assert_eq!(PgTime::from_postgres_micros(expected.unix_micros() - POSTGRES_EPOCH), expected);
    }

    #[test]
    fn an_instant_without_offset_is_refused_with_the_reason() {
        let error = "2026-11-22 12:00:00".parse::<PgTime>().unwrap_err();
        assert!(error.to_string().contains("offset from UTC is missing"), "{error}");
        for text in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-22"] {
            text.parse::<PgTime>().unwrap_err();
        }
    }
}
