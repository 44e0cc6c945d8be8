//! The local disk: durable writes, free space, which file is which, whose times can be relied on.

pub mod durable;
mod same;
mod space;
mod times;

pub use same::FileId;
pub use space::Space;
pub use times::device_that_keeps_times;
