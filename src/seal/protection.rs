//! What binds each frame to its object, its place and its neighbours, and keeps it secret.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroizing;

use super::frame::TAG_LEN;
use super::header::{Cipher, HEADER_LEN, Header, ObjectKind};
use super::key::KeyRing;
use crate::error::{Error, Result};

/// What binds a sealed object to its place: opened under any other kind, repository or name, it fails (R25).
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// What the object is.
    pub kind: ObjectKind,
    /// Whose it is: `<cluster>/<system identifier>`.
    pub identity: &'a str,
    /// Its name within the repository.
    pub name: &'a str,
}

impl Context<'_> {
    /// One digest that stands for header, identity and name in every frame's associated data.
    fn digest(&self, header: &[u8; HEADER_LEN]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("walproof 1 object context");
        hasher.update(header);
        for text in [self.identity, self.name] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// What protects the frames of one object.
pub(super) struct Protection {
    /// `None`: not encrypted, the tag is an unkeyed digest.
    cipher: Option<Box<Aes256Gcm>>,
    context: [u8; 32],
}

impl Protection {
    pub(super) fn new(header: &Header, keys: &KeyRing, context: Context<'_>) -> Result<Self> {
        let cipher = match header.cipher {
            // A reader that has keys takes nothing that is not sealed: else anyone could forge it.
            Cipher::None if keys.sealing().is_some() => return Err(header.key_missing(keys)),
            Cipher::None => None,
            Cipher::Aes256Gcm => {
                let master = keys.find(header.key_id).ok_or_else(|| header.key_missing(keys))?;
                let key: Zeroizing<[u8; 32]> = master.data_key(&header.salt)?;
                Some(Box::new(Aes256Gcm::new((&*key).into())))
            }
        };
        Ok(Self { cipher, context: context.digest(&header.to_bytes()) })
    }

    fn associated(&self, index: u64, frame: &[u8; 12]) -> [u8; 52] {
        let mut data = [0; 52];
        data[..32].copy_from_slice(&self.context);
        data[32..40].copy_from_slice(&index.to_le_bytes());
        data[40..].copy_from_slice(frame);
        data
    }

    /// Nonces never repeat: the data key belongs to one object, the counter to one frame of it.
    fn nonce(index: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&index.to_be_bytes());
        nonce
    }

    fn unkeyed_tag(associated: &[u8; 52], body: &[u8]) -> [u8; TAG_LEN] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(associated);
        hasher.update(body);
        let mut tag = [0; TAG_LEN];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }

    pub(super) fn protect(&self, index: u64, frame: &[u8; 12], body: &mut [u8]) -> Result<[u8; TAG_LEN]> {
        let associated = self.associated(index, frame);
        let Some(cipher) = &self.cipher else { return Ok(Self::unkeyed_tag(&associated, body)) };
        let nonce = Nonce::from(Self::nonce(index));
        let tag = cipher
            .encrypt_inout_detached(&nonce, &associated, body.into())
            .map_err(|_| Error::corrupt("encrypt a frame"))?;
        Ok(tag.into())
    }

    pub(super) fn unprotect(
        &self,
        index: u64,
        frame: &[u8; 12],
        body: &mut [u8],
        tag: [u8; TAG_LEN],
    ) -> Result<()> {
        let associated = self.associated(index, frame);
        let authentic = match &self.cipher {
            None => Self::unkeyed_tag(&associated, body) == tag,
            Some(cipher) => {
                let nonce = Nonce::from(Self::nonce(index));
                cipher.decrypt_inout_detached(&nonce, &associated, body.into(), &Tag::from(tag)).is_ok()
            }
        };
        if authentic {
            return Ok(());
        }
        Err(Error::corrupt("a frame is not authentic: changed, moved, or sealed for another object")
            .hint("was an object of the repository renamed, swapped or edited?"))
    }
}
