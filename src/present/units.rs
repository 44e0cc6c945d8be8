//! Numbers and instants in words.

use std::time::Duration;

use crate::postgres::PgTime;

/// An instant and how long ago it was.
pub fn when(at: PgTime, now: PgTime) -> String {
    format!("{} ({})", utc(at), age(at, now))
}

/// An instant, or that there is none.
pub fn when_known(at: Option<PgTime>, now: PgTime, otherwise: &str) -> String {
    at.map_or_else(|| otherwise.to_owned(), |at| when(at, now))
}

/// An instant for people.
pub fn utc(at: PgTime) -> String {
    at.timestamp().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// How long ago. The server's clock may be ahead of the host's.
pub fn age(at: PgTime, now: PgTime) -> String {
    let passed = now.seconds_since(at);
    if passed.abs() < 1.0 {
        "just now".to_owned()
    } else if passed < 0.0 {
        format!("in {}", seconds(-passed))
    } else {
        format!("{} ago", seconds(passed))
    }
}

/// A configured duration.
pub fn span(duration: Duration) -> String {
    seconds(duration.as_secs_f64())
}

/// A duration in its two largest units: 23 min 4 s.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is not negative")]
pub fn seconds(duration: f64) -> String {
    if duration < 10.0 && duration.fract() > 0.0 {
        return short(duration);
    }
    let whole = duration as u64;
    let (large, small) = match whole {
        0..60 => return format!("{whole} s"),
        60..3600 => ((whole / 60, "min"), (whole % 60, "s")),
        3600..86_400 => ((whole / 3600, "h"), (whole % 3600 / 60, "min")),
        _ => ((whole / 86_400, "d"), (whole % 86_400 / 3600, "h")),
    };
    if small.0 == 0 {
        format!("{} {}", large.0, large.1)
    } else {
        format!("{} {} {} {}", large.0, large.1, small.0, small.1)
    }
}

/// A duration below ten seconds: 0.18 s.
fn short(duration: f64) -> String {
    let text = if duration < 1.0 { format!("{duration:.2}") } else { format!("{duration:.1}") };
    format!("{text} s")
}

/// Bytes for people: 1.5 GiB.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    String::new()
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

    #[test]
    fn durations_read_well() {
        for (duration, text) in [
            (0.0, "0 s"),
            (0.184, "0.18 s"),
            (1.26, "1.3 s"),
            (12.9, "12 s"),
            (60.0, "1 min"),
            (1384.0, "23 min 4 s"),
            (3600.0, "1 h"),
            (86_399.0, "23 h 59 min"),
            (604_800.0, "7 d"),
            (615_600.0, "7 d 3 h"),
            (f64::MAX, "213503982334601 d 7 h"),
        ] {
            assert_eq!(seconds(duration), text);
        }
    }

    #[test]
    fn instants_carry_their_age() {
        let at = |micros: i64| PgTime::from_unix_micros(1_795_348_800_000_000 + micros);
        assert_eq!(when(at(0), at(12_000_000)), "2026-11-22 12:00:00 UTC (12 s ago)");
        assert_eq!(age(at(300_000), at(0)), "just now");
        assert_eq!(age(at(90_000_000), at(0)), "in 1 min 30 s");
    }
}
