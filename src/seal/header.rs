//! The clear header of a sealed object, FORMAT.md "Header".

use super::key::{KeyId, KeyRing, fill_random};
use crate::error::{Error, Kind, Result};

/// Bytes of a header.
pub const HEADER_LEN: usize = 64;
/// The format version that this program writes; it reads this one and older ones.
pub const VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"WALPROOF";
/// Largest frame that a reader accepts, so that a forged header cannot make it allocate without bound.
const LARGEST_FRAME: u32 = 64 << 20;
/// What an error says where a key is not at hand; of a process of which only its words and code 5 are known.
pub const SEALED_WITH: &str = "is sealed with key";

/// What a sealed object is. Bound into its authentication, so one kind cannot pass for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// A repository's identity.
    Identity = 1,
    /// A WAL segment, `.partial`, `.backup` or `.history` file.
    Wal = 2,
    /// A pack of extents.
    Pack = 3,
    /// A backup's manifest.
    Manifest = 4,
    /// A part of a manifest's file table.
    FileTable = 5,
    /// A lease.
    Lease = 7,
    /// Bytes of an unfinished segment.
    Tail = 8,
    /// A drill's report.
    Report = 9,
    /// A hold on a backup.
    Hold = 10,
    /// What `check` and `init` write to test the store.
    Probe = 11,
    /// The packs of a backup.
    PackList = 12,
    /// What retention did last.
    Expiry = 13,
    /// What verifications found, and what they opened when.
    Verify = 14,
}

impl ObjectKind {
    const ALL: [Self; 13] = [
        Self::Identity,
        Self::Wal,
        Self::Pack,
        Self::Manifest,
        Self::FileTable,
        Self::Lease,
        Self::Tail,
        Self::Report,
        Self::Hold,
        Self::Probe,
        Self::PackList,
        Self::Expiry,
        Self::Verify,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// How frames are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cipher {
    /// Not encrypted; the tag is an unkeyed BLAKE3, against accidents only.
    None = 0,
    /// AES-256-GCM, nonce = frame counter.
    Aes256Gcm = 1,
}

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    /// Every frame is stored as it is.
    None = 0,
    /// Zstandard (RFC 8878), each frame on its own.
    Zstd = 1,
}

/// The clear header: what a reader must know before it can open the first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: ObjectKind,
    /// How its frames are protected.
    pub cipher: Cipher,
    /// How its frames are compressed.
    pub compression: Compression,
    /// The master key that sealed it; zeros when not encrypted.
    pub key_id: KeyId,
    /// Makes the data key unique to this object.
    pub salt: [u8; 32],
    /// No frame holds more plaintext bytes than this.
    pub frame_limit: u32,
}

impl Header {
    /// A header for a new object, with a fresh random salt.
    pub(super) fn new(kind: ObjectKind, keys: &KeyRing, frame_limit: u32) -> Result<Self> {
        let mut salt = [0; 32];
        fill_random(&mut salt)?;
        let (cipher, key_id) = match keys.sealing() {
            Some(key) => (Cipher::Aes256Gcm, key.id()),
            None => (Cipher::None, KeyId::NONE),
        };
        Ok(Self { kind, cipher, compression: Compression::Zstd, key_id, salt, frame_limit })
    }

    /// The bytes as stored.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.kind as u8;
        bytes[11] = self.cipher as u8;
        bytes[12] = self.compression as u8;
        bytes[16..24].copy_from_slice(&self.key_id.to_bytes());
        bytes[24..56].copy_from_slice(&self.salt);
        bytes[56..60].copy_from_slice(&self.frame_limit.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Parse the start of an object. Refuses a newer version by name before anything else is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(Error::corrupt(format!("the object is truncated: {} bytes", bytes.len())));
        };
        if &bytes[..8] != MAGIC {
            return Err(Error::corrupt("this is not an object of walproof (wrong magic)"));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(Error::corrupt(format!(
                "the object has format version {version}, this program reads up to {VERSION}"
            ))
            .hint("was the repository written by a newer walproof? upgrade this one"));
        }
        let crc = u32::from_le_bytes([bytes[60], bytes[61], bytes[62], bytes[63]]);
        if version == 0 || crc32fast::hash(&bytes[..60]) != crc {
            return Err(Error::corrupt("the object's header is damaged (checksum)"));
        }
        let header = Self::fields(bytes).ok_or_else(|| Error::corrupt("the object's header is malformed"))?;
        if header.to_bytes() != *bytes {
            return Err(Error::corrupt("the object's header has unknown fields"));
        }
        Ok(header)
    }

    fn fields(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let frame_limit = u32::from_le_bytes([bytes[56], bytes[57], bytes[58], bytes[59]]);
        Some(Self {
            kind: ObjectKind::from_byte(bytes[10])?,
            cipher: [Cipher::None, Cipher::Aes256Gcm].into_iter().find(|c| *c as u8 == bytes[11])?,
            compression: [Compression::None, Compression::Zstd]
                .into_iter()
                .find(|c| *c as u8 == bytes[12])?,
            key_id: KeyId::from_bytes(*bytes[16..].first_chunk()?),
            salt: *bytes[24..].first_chunk()?,
            frame_limit: (frame_limit <= LARGEST_FRAME).then_some(frame_limit)?,
        })
    }

    /// The error for an object whose key is not at hand.
    pub(super) fn key_missing(&self, keys: &KeyRing) -> Error {
        match self.cipher {
            Cipher::None => {
                Error::corrupt("the object is not encrypted, but the configuration requires it to be")
                    .hint("was the repository made with encryption.mode = \"none\"?")
            }
            Cipher::Aes256Gcm => Error::new(
                Kind::KeyMissing,
                format!("the object {SEALED_WITH} {}; keys at hand: {}", self.key_id, keys.ids()),
            )
            .hint("is this the key file that the repository was made with?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header::new(ObjectKind::Wal, &KeyRing::unencrypted(), 1 << 20).unwrap()
    }

    #[test]
    fn headers_round_trip() {
        let header = sample();
        assert_eq!(Header::parse(&header.to_bytes()).unwrap(), header);
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let bytes = sample().to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            Header::parse(&damaged).unwrap_err();
        }
        for len in 0..bytes.len() {
            Header::parse(&bytes[..len]).unwrap_err();
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = sample().to_bytes();
        bytes[8] = 2;
        let error = Header::parse(&bytes).unwrap_err();
        assert!(error.to_string().contains("format version 2"), "{error}");
    }
}
