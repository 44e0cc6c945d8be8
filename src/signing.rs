//! Keys that sign evidence: Ed25519, as PEM files that OpenSSL reads, too. The private one is on the staging host only.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::seal::fill_random;

/// DER in front of the 32 bytes: PKCS #8 (RFC 8410, 7) and SubjectPublicKeyInfo (4).
const PRIVATE: [u8; 16] = [0x30, 0x2E, 2, 1, 0, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 4, 0x22, 4, 0x20];
const PUBLIC: [u8; 12] = [0x30, 0x2A, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 3, 0x21, 0];

/// Signs evidence.
pub struct DrillKey(SigningKey);

impl std::fmt::Debug for DrillKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DrillKey({})", self.public().id())
    }
}

/// Verifies evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl DrillKey {
    /// A new key.
    pub fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        fill_random(&mut seed[..])?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Read the PEM text of a private key.
    pub fn parse(text: &str) -> Result<Self> {
        let seed = Zeroizing::new(unwrap_pem(text, "PRIVATE KEY", &PRIVATE)?);
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Its PEM text.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", &PRIVATE, &self.0.to_bytes()))
    }

    /// The other half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl PublicKey {
    /// Read the PEM text of a public key.
    pub fn parse(text: &str) -> Result<Self> {
        let bytes = unwrap_pem(text, "PUBLIC KEY", &PUBLIC)?;
        let key = VerifyingKey::from_bytes(&bytes);
        key.map(Self).map_err(|_| Error::usage("the public key is not a point of its curve"))
    }

    /// Its PEM text.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &PUBLIC, self.0.as_bytes())
    }

    /// SHA-256 of its DER form, in hex.
    pub fn id(&self) -> String {
        hex_digest(&[&PUBLIC[..], self.0.as_bytes()].concat())
    }

    /// Whether `signature` is that of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let signature = Signature::from_slice(signature);
        signature.is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }
}

/// SHA-256 in hex.
pub fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write;
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn pem(label: &str, head: &[u8], key: &[u8]) -> String {
    let body = Zeroizing::new([head, key].concat());
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(&*body))
}

fn unwrap_pem(text: &str, label: &str, head: &[u8]) -> Result<[u8; 32]> {
    let wrong = || {
        Error::usage(format!("this is not the {} of a drill", label.to_lowercase()))
            .hint("`walproof drill-keygen` makes a pair; Ed25519 as PEM, \"PRIVATE KEY\" and \"PUBLIC KEY\"")
    };
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let (_, rest) = text.split_once(&begin).ok_or_else(wrong)?;
    let (body, _) = rest.split_once(&end).ok_or_else(wrong)?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    let der = Zeroizing::new(STANDARD.decode(body.as_bytes()).map_err(|_| wrong())?);
    der.strip_prefix(head).and_then(|key| key.try_into().ok()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_are_what_openssl_makes() {
        let key = DrillKey::generate().unwrap();
        let again = DrillKey::parse(&key.to_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_pem()).unwrap(), key.public());
        assert!(
            key.public().verifies(b"x", &again.sign(b"x")) && !key.public().verifies(b"y", &key.sign(b"x"))
        );
        // RFC 8410, 10.3 and 10.1.
        let text = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let key = DrillKey::parse(text).unwrap();
        assert_eq!((key.to_pem().as_str(), key.public().to_pem().as_str()), (text, public));
        assert!(!format!("{key:?}").contains("1O5y"));
    }

    #[test]
    fn other_texts_are_refused() {
        let key = DrillKey::generate().unwrap();
        for text in ["", "walproof-key-1 00", &key.public().to_pem(), &key.to_pem()[..60]] {
            DrillKey::parse(text).unwrap_err();
        }
        PublicKey::parse(&key.to_pem()).unwrap_err();
    }
}
