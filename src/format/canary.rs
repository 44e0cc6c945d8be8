//! Canaries: what the daemon writes into WAL, so that a drill proves whose database it restored, and how fresh it is.

use super::identity::Identity;
use crate::error::{Error, Result};
use crate::postgres::PgTime;

/// The prefix of the daemon's logical messages.
pub const CANARY_PREFIX: &str = "walproof";

impl Identity {
    /// The text of a canary of this instant.
    pub fn canary(&self, at: PgTime) -> Result<String> {
        let text = format!("canary 1 {}/{} {at}", self.cluster, self.system_identifier);
        let code = self.canary_code(&text)?;
        Ok(format!("{text} {code}"))
    }

    /// When a canary was written; an error if it is not one of this repository's daemon, to the byte.
    pub fn read_canary(&self, text: &[u8]) -> Result<PgTime> {
        let foreign = || Error::corrupt("the canary was not written by this repository's daemon");
        let text = std::str::from_utf8(text).map_err(|_| foreign())?;
        let at = text.rsplit(' ').nth(1).and_then(|time| time.parse::<PgTime>().ok()).ok_or_else(foreign)?;
        if self.canary(at)? == text { Ok(at) } else { Err(foreign()) }
    }

    fn canary_code(&self, text: &str) -> Result<String> {
        let hash = blake3::keyed_hash(&*self.canary_key()?, text.as_bytes()).to_hex();
        Ok(hash[..32].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{Major, SegmentSize};

    fn identity() -> Identity {
        let major = Major::from_wal_magic(0xD110).unwrap();
        Identity::generate("main".parse().unwrap(), 7, major, SegmentSize::new(1 << 24).unwrap()).unwrap()
    }

    #[test]
    fn only_this_repositorys_canary_is_taken_for_one() {
        let (ours, other) = (identity(), identity());
        let at = PgTime::from_unix_micros(1_760_000_000_000_000);
        let text = ours.canary(at).unwrap();
        assert_eq!(ours.read_canary(text.as_bytes()).unwrap(), at);
        other.read_canary(text.as_bytes()).unwrap_err();
        for index in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] ^= 1;
            ours.read_canary(&changed).unwrap_err();
        }
        ours.read_canary(b"").unwrap_err();
    }
}
