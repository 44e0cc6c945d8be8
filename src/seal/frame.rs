//! Frames: the parts of a sealed object that are compressed and authenticated as one, FORMAT.md "Frames".

use super::page_filter::PageFilter;
use crate::error::{Error, Result};

/// Bytes of a frame's clear header.
pub(super) const FRAME_HEADER_LEN: usize = 16;
/// Bytes of a frame's authentication tag.
pub(super) const TAG_LEN: usize = 16;
/// What a frame costs beyond its (compressed) content, bytes.
pub const FRAME_OVERHEAD: usize = FRAME_HEADER_LEN + TAG_LEN;

const LAST: u8 = 1;
const RAW: u8 = 2;

/// Where a frame was put in a sealed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedFrame {
    /// Its number, from 0.
    pub index: u64,
    /// Bytes with header and tag.
    pub stored_len: u32,
    /// Bytes of its plaintext.
    pub plain_len: u32,
}

/// A frame's clear header; everything but the checksum is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes that follow this header: ciphertext and tag.
    pub body_len: u32,
    /// Bytes of plaintext.
    pub plain_len: u32,
    /// No frame follows.
    pub last: bool,
    /// The content is not compressed.
    pub raw: bool,
    /// What was done to the pages of the plaintext before.
    pub filter: PageFilter,
    /// CRC-32 of the header before it and the body: lets anyone scrub without the key.
    pub crc: u32,
}

impl FrameHeader {
    /// The 12 authenticated bytes.
    pub(super) fn authenticated(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.plain_len.to_le_bytes());
        bytes[8] = if self.last { LAST } else { 0 } | if self.raw { RAW } else { 0 };
        bytes[9] = self.filter.to_byte();
        bytes
    }

    /// CRC-32 over the authenticated bytes and the body.
    pub(super) fn crc_of(authenticated: &[u8; 12], body: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(authenticated);
        hasher.update(body);
        hasher.finalize()
    }

    /// The whole header.
    pub(super) fn to_bytes(self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[..12].copy_from_slice(&self.authenticated());
        bytes[12..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Parse the frame that `bytes` begins with and check its CRC: (header, body, what follows).
    pub fn split(bytes: &[u8], frame_limit: u32) -> Result<(Self, &[u8], &[u8])> {
        let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEADER_LEN>() else {
            return Err(Error::corrupt("the object is truncated inside a frame header"));
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let header = Self {
            body_len: word(0),
            plain_len: word(4),
            last: head[8] & LAST != 0,
            raw: head[8] & RAW != 0,
            filter: PageFilter::from_byte(head[9]).unwrap_or_default(),
            crc: word(12),
        };
        let sane = header.to_bytes() == *head
            && header.plain_len <= frame_limit
            && header.body_len as usize >= TAG_LEN;
        if !sane {
            return Err(Error::corrupt("a frame's header is malformed"));
        }
        let Some((body, rest)) = rest.split_at_checked(header.body_len as usize) else {
            return Err(Error::corrupt("the object is truncated inside a frame"));
        };
        if Self::crc_of(&header.authenticated(), body) != header.crc {
            return Err(Error::corrupt("a frame is damaged (checksum)"));
        }
        Ok((header, body, rest))
    }
}
