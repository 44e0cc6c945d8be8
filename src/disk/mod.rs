//! The local disk: durable writes, free space, which file is which.

pub mod durable;
mod same;
mod space;

pub use same::FileId;
pub use space::Space;
