//! Whose repository it is: written once by `init`, read by everything.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::encoding::as_text;
use crate::error::{Error, Result};
use crate::postgres::{Major, SegmentName, SegmentSize};
use crate::seal::{VERSION, fill_random};
use crate::wal::Links;

/// A cluster's name: 1 to 63 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit; safe in a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// The text, as in keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && text.as_bytes()[0].is_ascii_alphanumeric();
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::usage(format!("\"{text}\" is not a valid cluster name")).hint(
            "use 1 to 63 letters, digits, dots, hyphens or underscores, beginning with a letter or digit",
        ))
    }
}

impl TryFrom<String> for ClusterName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

/// The digest of a WAL file's content: equal if and only if that is, and meaningless without the repository's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest([u8; 16]);

impl ContentDigest {
    /// The digest with these bytes.
    #[cfg(test)]
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As a key has it, of a file with these links.
    #[must_use]
    pub const fn linked(self, links: Links) -> WalDigest {
        WalDigest { content: self, links }
    }
}

/// The digest in a WAL key: of the content, and of a segment how its records are linked to those of its neighbours, so that
/// a listing alone tells whether recovery reads on from one to the next. Content decides about both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalDigest {
    content: ContentDigest,
    links: Links,
}

impl WalDigest {
    /// The digest with these bytes, of a file of which no links are known.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        ContentDigest(bytes).linked(Links::UNKNOWN)
    }

    /// Of the content.
    pub const fn content(self) -> ContentDigest {
        self.content
    }

    /// How the segment is linked to its neighbours.
    pub const fn links(self) -> Links {
        self.links
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ContentDigest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bytes = bytes(text).filter(|_| digits);
        bytes.map(Self).ok_or_else(|| Error::corrupt(format!("\"{text}\" is not a digest")))
    }
}

impl fmt::Display for WalDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = self.links.to_bytes();
        let links = if self.links == Links::UNKNOWN { &[] } else { &links[..] };
        write!(f, "{}", self.content)?;
        links.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for WalDigest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::corrupt(format!("\"{text}\" is not a digest"));
        if !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let (content, links) = text.split_at_checked(32).ok_or_else(wrong)?;
        let content: ContentDigest = content.parse()?;
        if links.is_empty() {
            return Ok(content.linked(Links::UNKNOWN));
        }
        let links = Links::from_bytes(bytes(links).ok_or_else(wrong)?);
        // One key for one content: what is not known is not written.
        if links == Links::UNKNOWN { Err(wrong()) } else { Ok(content.linked(links)) }
    }
}

/// The `N` bytes of as many pairs of hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    (text.len() == 2 * N).then_some(bytes)
}

/// The identity of a repository. The secret keys every digest; it survives key rotation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format version that the repository was made with.
    pub format: u16,
    /// The cluster's name.
    pub cluster: ClusterName,
    /// PostgreSQL's system identifier; a decimal string, since JSON numbers lose digits.
    #[serde(with = "as_text")]
    pub system_identifier: u64,
    /// PostgreSQL's major version when the repository was made.
    pub pg_major: u16,
    /// Bytes of a WAL segment.
    pub segment_size: u32,
    /// When the repository was made.
    pub created_at: Timestamp,
    secret: Zeroizing<String>,
}

impl Identity {
    /// A new identity with a new secret.
    pub(crate) fn generate(
        cluster: ClusterName,
        system_identifier: u64,
        major: Major,
        size: SegmentSize,
    ) -> Result<Self> {
        let mut random = Zeroizing::new([0; 32]);
        fill_random(&mut random[..])?;
        Ok(Self {
            format: VERSION,
            cluster,
            system_identifier,
            pg_major: major.get(),
            segment_size: u32::try_from(size.bytes()).unwrap_or(u32::MAX),
            created_at: Timestamp::now(),
            secret: Zeroizing::new(blake3::Hash::from_bytes(*random).to_hex().to_string()),
        })
    }

    /// Parse the plaintext of the identity object.
    pub(crate) fn parse(plain: &[u8]) -> Result<Self> {
        let identity: Self = serde_json::from_slice(plain)
            .map_err(|cause| Error::corrupt(format!("read identity: {cause}")))?;
        if identity.format > VERSION {
            return Err(Error::corrupt(format!(
                "the repository has format version {}, this program reads up to {VERSION}",
                identity.format
            ))
            .hint("was it made by a newer walproof? upgrade this one"));
        }
        identity.secret()?;
        identity.segment_size()?;
        Ok(identity)
    }

    /// Bytes of a WAL segment.
    pub fn segment_size(&self) -> Result<SegmentSize> {
        SegmentSize::new(self.segment_size)
    }

    fn secret(&self) -> Result<Zeroizing<[u8; 32]>> {
        let hash = blake3::Hash::from_hex(self.secret.as_bytes())
            .map_err(|_| Error::corrupt("the identity's secret is damaged"))?;
        Ok(Zeroizing::new(*hash.as_bytes()))
    }

    /// The digest of a WAL file whose plaintext has this BLAKE3 hash. Two steps, so that a segment can be
    /// hashed before the identity has arrived.
    pub fn wal_digest(&self, plain_hash: &[u8; 32]) -> Result<ContentDigest> {
        let keyed = blake3::keyed_hash(&*self.secret()?, plain_hash);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&keyed.as_bytes()[..16]);
        Ok(ContentDigest(bytes))
    }

    /// What proves that the content with this digest, opened and checked, was laid ready under `name`: 32 hexadecimal
    /// digits that nobody else can make.
    pub fn spool_proof(&self, name: &SegmentName, digest: WalDigest) -> Result<String> {
        let key = Zeroizing::new(blake3::derive_key("walproof 1 spool", &*self.secret()?));
        let proof = blake3::keyed_hash(&key, format!("{name} {digest}").as_bytes());
        Ok(proof.to_hex()[..32].to_owned())
    }

    /// The key of canaries (FORMAT.md "Canaries").
    pub(crate) fn canary_key(&self) -> Result<Zeroizing<[u8; 32]>> {
        Ok(Zeroizing::new(blake3::derive_key("walproof 1 canary", &*self.secret()?)))
    }

    /// The seed of page digests (FORMAT.md "Page digests").
    pub fn page_seed(&self) -> Result<u64> {
        let derived = blake3::derive_key("walproof 1 page digest seed", &*self.secret()?);
        Ok(u64::from_le_bytes([
            derived[0], derived[1], derived[2], derived[3], derived[4], derived[5], derived[6], derived[7],
        ]))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({}/{})", self.cluster, self.system_identifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_identity_is_refused_and_its_secret_never_shown() {
        let size = SegmentSize::new(1 << 24).unwrap();
        let mut identity = Identity::generate(
            "main".parse().unwrap(),
            7,
            Major::from_catalog_version(202_209_061).unwrap(),
            size,
        )
        .unwrap();
        assert!(!format!("{identity:?}").contains(identity.secret.as_str()));
        let same = Identity::parse(&serde_json::to_vec(&identity).unwrap()).unwrap();
        assert_eq!(same.wal_digest(&[1; 32]).unwrap(), identity.wal_digest(&[1; 32]).unwrap());
        identity.format = 2;
        let error = Identity::parse(&serde_json::to_vec(&identity).unwrap()).unwrap_err();
        assert!(error.to_string().contains("format version 2"));
    }

    #[test]
    fn names_that_would_break_a_key_are_refused() {
        for name in ["", ".", "..", "a/b", "-a", "a b", &"a".repeat(64), "é"] {
            name.parse::<ClusterName>().unwrap_err();
        }
        "roadwave-15.main_2".parse::<ClusterName>().unwrap();
    }
}
