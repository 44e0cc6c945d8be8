//! How numbers and texts are written into the bytes of an object. Only `format` says which. Little-endian throughout.

pub(crate) mod as_text;
mod columns;
mod fields;

pub(crate) use columns::{ColumnReader, Columns};
pub(crate) use fields::{put_bytes, put_u32, put_words, take, take_bytes, take_u32};
