//! Master keys: their text form, their ids, and the keys derived from them. No key ever appears in `Debug`,
//! an error or a log (R24).

use std::fmt;
use std::sync::{Arc, OnceLock};

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Error, Result};

/// First word of a key's line; a later kind of key gets another one.
const PREFIX: &str = "walproof-key-1";
/// HKDF info of an object's data key, FORMAT.md "Keys".
const DATA_KEY_INFO: &[u8] = b"walproof 1 object key";

/// Which master key: named in the clear in every object that it seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 8]);

impl KeyId {
    /// Of what is not encrypted.
    pub const NONE: Self = Self([0; 8]);

    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// As in headers.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TryFrom<String> for KeyId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let number = u64::from_str_radix(&text, 16).map(|number| Self(number.to_be_bytes()));
        number
            .ok()
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| Error::corrupt(format!("\"{text}\" is not the id of a key")))
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

/// A 256-bit master key. Data keys are derived from it, one for each object.
#[derive(Clone)]
pub struct MasterKey {
    bytes: Zeroizing<[u8; 32]>,
    id: KeyId,
}

impl MasterKey {
    /// A new key from the operating system's random number generator.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        fill_random(&mut bytes[..])?;
        Ok(Self::from_bytes(bytes))
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        let digest = blake3::derive_key("walproof 1 key id", &bytes[..]);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self { bytes, id: KeyId(id) }
    }

    /// Which key this is.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The line that `keygen` prints: `walproof-key-1 <64 hex digits>`.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 66));
        text.push_str(PREFIX);
        text.push(' ');
        for byte in self.bytes.iter() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text
    }

    /// Parse a line of a key file. The error never repeats the line.
    fn parse(line: &str) -> Result<Self> {
        let wrong = || {
            Error::usage("the key is not in the form that `walproof keygen` prints")
                .hint("is this the right key file, whole and unchanged?")
        };
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some(PREFIX) {
            return Err(wrong());
        }
        let hex = words.next().ok_or_else(wrong)?;
        if hex.len() != 64 || !hex.is_ascii() || words.next().is_some() {
            return Err(wrong());
        }
        let mut bytes = Zeroizing::new([0; 32]);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
        }
        // A placeholder somebody typed: whatever it seals, anybody opens.
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(Error::usage("the key is one byte repeated, not a random key")
                .hint("make one with `walproof keygen`"));
        }
        Ok(Self::from_bytes(bytes))
    }

    /// The data key of the object with this salt (HKDF-SHA256, RFC 5869).
    pub(super) fn data_key(&self, salt: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>> {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(salt), &self.bytes[..])
            .expand(DATA_KEY_INFO, &mut key[..])
            .map_err(|_| Error::corrupt("derive the data key"))?;
        Ok(key)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

/// The keys at hand. The first one seals, all of them open; none at all means `mode = "none"`.
/// A ring can be replaced while it is in use: clones are one ring.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: Vec<MasterKey>,
    /// What has replaced it. Never taken away again, so that a key can be lent while a newer ring comes.
    newer: Arc<OnceLock<Self>>,
}

impl PartialEq for KeyRing {
    fn eq(&self, other: &Self) -> bool {
        self.all().eq(other.all())
    }
}

impl KeyRing {
    /// No encryption: objects are framed and checked against accidents, but anyone can read and forge them.
    pub fn unencrypted() -> Self {
        Self::default()
    }

    /// Parse a key file: one key a line, the first one seals; empty lines and `#` comments are skipped.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<MasterKey> = lines.map(MasterKey::parse).collect::<Result<_>>()?;
        if keys.is_empty() {
            return Err(Error::usage("the key is empty").hint("make one with `walproof keygen`"));
        }
        Ok(Self { keys, newer: Arc::default() })
    }

    /// From now on this ring and all its clones are `other`.
    pub fn replace(&self, other: &Self) {
        if self != other {
            // Fails only when somebody else has just done so.
            let _ =
                self.newest().newer.set(Self { keys: other.newest().keys.clone(), newer: Arc::default() });
        }
    }

    fn newest(&self) -> &Self {
        let mut newest = self;
        while let Some(newer) = newest.newer.get() {
            newest = newer;
        }
        newest
    }

    /// The key that seals, or `None` when encryption is off.
    pub fn sealing(&self) -> Option<&MasterKey> {
        self.newest().keys.first()
    }

    /// The key with this id.
    pub(super) fn find(&self, id: KeyId) -> Option<&MasterKey> {
        self.newest().keys.iter().find(|key| key.id == id)
    }

    /// The ids of all keys at hand, the one that seals first.
    pub fn all(&self) -> impl Iterator<Item = KeyId> {
        self.newest().keys.iter().map(MasterKey::id)
    }

    /// The ids at hand, for messages.
    pub(super) fn ids(&self) -> String {
        let ids: Vec<String> = self.all().map(|id| id.to_string()).collect();
        if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
    }
}

/// Fill `bytes` from the operating system; a failure is an error, never weak randomness (R24).
pub fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|cause| {
        bytes.zeroize();
        Error::new(crate::error::Kind::Other, format!("read random numbers from the system: {cause}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_form_and_debug_hides_it() {
        let key = MasterKey::generate().unwrap();
        let text = key.to_text();
        let ring = KeyRing::parse(&format!("# old and new\n\n{}\n", *text)).unwrap();
        assert_eq!(ring.sealing().unwrap().id(), key.id());
        assert!(!format!("{key:?} {ring:?}").contains(&text[15..30]));
    }

    #[test]
    fn the_id_of_a_key_has_a_text() {
        let id = MasterKey::generate().unwrap().id();
        assert_eq!(KeyId::try_from(id.to_string()).unwrap(), id);
        for text in
            ["", "0", "+123456789abcdef", "00112233445566778", "0011223344556677889", "0011223344AABBCC"]
        {
            KeyId::try_from(text.to_owned()).unwrap_err();
        }
    }

    #[test]
    fn a_ring_is_replaced_in_all_its_clones() {
        let ring = || KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let (old, new, newest) = (ring(), ring(), ring());
        let clone = old.clone();
        let lent = old.sealing().unwrap();
        let id = lent.id();
        clone.replace(&new);
        assert_eq!(lent.id(), id);
        assert_eq!(old, new);
        old.replace(&newest);
        assert_eq!((&clone, clone.sealing().unwrap().id()), (&newest, newest.sealing().unwrap().id()));
        assert!(clone.find(id).is_none());
    }

    #[test]
    fn r24_what_is_no_key_is_refused_without_being_repeated() {
        for text in [
            "",
            "# only a comment",
            "walproof-key-1",
            "walproof-key-1 00ff",
            "secret-secret",
            "walproof-key-1 é",
        ] {
            let error = KeyRing::parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret-secret") && !error.contains("00ff"), "{error}");
        }
        let long = format!("walproof-key-1 {}", "zz".repeat(32));
        KeyRing::parse(&long).unwrap_err();
        for byte in ["00", "ff", "5A"] {
            let error = KeyRing::parse(&format!("walproof-key-1 {}", byte.repeat(32))).unwrap_err();
            assert!(error.to_string().contains("not a random key"), "{error}");
        }
    }
}
