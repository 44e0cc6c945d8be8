//! Ids of backups: `YYYYMMDDTHHMMSSZ-<8 hex>`, so that they sort by time and never meet. The first four hex digits are
//! the fraction of the second, so that backups that begin in one second sort too; the last four are random.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::seal::fill_random;

/// Bytes of an id.
const LEN: usize = 25;

/// The id of a backup; always in the form above, so it is safe in a key. It takes no memory but its own: the names of all packs
/// of a large backup have one each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId([u8; LEN]);

impl BackupId {
    /// A new id for a backup that starts `now` by the database server's clock.
    pub fn generate(now: Timestamp) -> Result<Self> {
        let mut random = [0; 2];
        fill_random(&mut random)?;
        let fraction = (u64::from(now.subsec_nanosecond().unsigned_abs()) << 16) / 1_000_000_000;
        let random = u16::from_be_bytes(random);
        format!("{}-{fraction:04x}{random:04x}", now.strftime("%Y%m%dT%H%M%SZ")).parse()
    }

    /// When the backup began, to the second.
    pub fn began(&self) -> Option<Timestamp> {
        let (time, _) = self.as_str().split_once('Z')?;
        Timestamp::strptime("%Y%m%dT%H%M%S%z", format!("{time}+0000")).ok()
    }

    /// The text, as in keys.
    pub fn as_str(&self) -> &str {
        // They are all ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupId({self})")
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shape = "dddddddd.dddddd.-hhhhhhhh";
        let fits = text.bytes().zip(shape.bytes()).enumerate().all(|(at, (byte, expected))| match expected {
            b'd' => byte.is_ascii_digit(),
            b'h' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            b'.' => byte == if at == 8 { b'T' } else { b'Z' },
            _ => byte == expected,
        });
        if fits && let Ok(bytes) = text.as_bytes().try_into() {
            return Ok(Self(bytes));
        }
        Err(Error::usage(format!("\"{text}\" is not the id of a backup"))
            .hint("ids look like 20261122T130000Z-1a2b3c4d; `walproof backup-list` shows them"))
    }
}

impl TryFrom<String> for BackupId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_second_sort_by_time() {
        let at = |millis| BackupId::generate(Timestamp::from_millisecond(millis).unwrap()).unwrap();
        let ids: Vec<_> = (1000..1999).map(at).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn ids_round_trip_and_nothing_else_parses() {
        let id = BackupId::generate(Timestamp::UNIX_EPOCH).unwrap();
        assert!(id.as_str().starts_with("19700101T000000Z-"));
        assert_eq!(id.as_str().parse::<BackupId>().unwrap(), id);
        assert_eq!(id.began(), Some(Timestamp::UNIX_EPOCH));
        for text in [
            "",
            "LATEST",
            "19700101T000000Z-",
            "19700101T000000Z-1234567G",
            "19700101-000000Z-12345678",
            "../../../../../../../../ab",
        ] {
            text.parse::<BackupId>().unwrap_err();
        }
    }
}
