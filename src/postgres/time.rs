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

impl PgTime {
    /// What an operator writes for an instant: as [`FromStr`], with a time zone's name (`2026-11-22 13:00 Europe/Paris`),
    /// `now - 10 min`, `10 min ago`, or as mails write it.
    pub fn parse_target(text: &str, now: Self) -> Result<Self> {
        let trimmed = text.trim();
        if let Some(age) = age(trimmed) {
            let age = humantime::parse_duration(age).ok().and_then(|age| i64::try_from(age.as_micros()).ok());
            return age.map(|age| Self(now.0.saturating_sub(age))).ok_or_else(|| {
                Error::usage(format!("\"{text}\" is not a time before now"))
                    .hint("write it as \"now - 10 min\"")
            });
        }
        if let Some(time) = in_named_zone(trimmed) {
            return time;
        }
        if let Ok(zoned) = jiff::fmt::rfc2822::parse(trimmed) {
            return Ok(zoned.timestamp().into());
        }
        text.parse()
    }
}

/// What is taken away from now.
fn age(text: &str) -> Option<&str> {
    if text == "now" {
        return Some("0s");
    }
    let age = match text.strip_prefix("now") {
        Some(rest) => rest.trim_start().strip_prefix('-')?,
        None => text.strip_suffix("ago")?,
    };
    Some(age.trim())
}

/// A civil time and a time zone's name; `None` if it is not that.
fn in_named_zone(text: &str) -> Option<Result<PgTime>> {
    let (civil, zone) = text.rsplit_once(' ')?;
    let civil: jiff::civil::DateTime = civil.trim().parse().ok()?;
    if !zone.contains('/') {
        return None;
    }
    let time = jiff::tz::TimeZone::get(zone).and_then(|zone| zone.into_ambiguous_zoned(civil).unambiguous());
    Some(time.map(|zoned| zoned.timestamp().into()).map_err(|cause| {
        Error::usage(format!("\"{text}\" is not one instant: {cause}"))
            .hint("write the offset from UTC instead, as in 2026-11-22T13:00:00+01:00")
    }))
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
            error.context("the offset from UTC is missing").hint("write it, as in '2026-11-22 13:00:00+01', or 'now - 10 min'; a guessed time zone would restore another moment")
        } else {
            error.hint("write it as '2026-11-22 13:00:00+01', 2026-11-22T12:00:00Z or 'now - 10 min'")
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
    fn operators_write_instants_in_more_ways() {
        let now: PgTime = "2026-11-22T12:10:00Z".parse().unwrap();
        for text in [
            "now - 10 min",
            "now-10m",
            "10 minutes ago",
            " now - 9min 60s ",
            "2026-11-22 12:00:00+00",
            "2026-11-22 13:00 Europe/Paris",
            "2026-11-22T13:00:00 Europe/Paris",
            "Sun, 22 Nov 2026 13:00:00 +0100",
            "2026-11-22 12:00:00 UTC",
        ] {
            let time = PgTime::parse_target(text, now).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(time.to_string(), "2026-11-22T12:00:00.000000Z", "{text}");
        }
        assert_eq!(PgTime::parse_target("now", now).unwrap(), now);
        for text in ["now + 1 h", "now - soon", "ago", "yesterday", "2026-11-22 13:00:00 CET", "nowhere", ""]
        {
            let error = PgTime::parse_target(text, now).unwrap_err();
            assert!(error.hint_text().is_some_and(|hint| hint.contains("now - 10 min")), "{text}: {error}");
        }
        // Twice that night, and never that other one.
        for text in ["2026-10-25 02:30:00 Europe/Paris", "2026-03-29 02:30:00 Europe/Paris"] {
            let error = PgTime::parse_target(text, now).unwrap_err();
            assert!(error.to_string().contains("is not one instant"), "{error}");
        }
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
