//! Bytes to sealed bytes and back: compress, encrypt, frame. Owns keys and nonces.
//!
//! The byte layout is specified in `format/FORMAT.md`; this room knows nothing of key names or of
//! what an object means, only the [`Context`] that binds a sealed object to its place.

mod compression;
mod frame;
mod header;
mod key;
mod object;
mod page_filter;
mod protection;
pub(crate) mod tree_hash;

pub use compression::{Compressor, Decompressor, PageCompressor};
pub use frame::{FRAME_OVERHEAD, FrameHeader, SealedFrame};
pub use header::{Cipher, Compression, HEADER_LEN, Header, ObjectKind, SEALED_WITH, VERSION};
pub use key::{KeyId, KeyRing, MasterKey, fill_random};
pub use object::{DEFAULT_FRAME, Opener, Sealer, open_object, scrub_object, seal_object};
pub use page_filter::PageFilter;
pub use protection::Context;
