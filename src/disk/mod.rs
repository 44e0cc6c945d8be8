//! The local disk: durable writes, free space, which file is which and what it holds, whose times can be relied on.

mod digest;
pub mod durable;
mod pieces;
mod read_at;
mod read_buffer;
mod same;
mod space;
mod times;

pub use digest::digest_of;
pub use pieces::{LONGEST_WRITE, write_in_pieces};
pub use read_at::ReadAt;
pub use read_buffer::ReadBuffer;
pub use same::{FileId, FileStamp};
pub use space::Space;
pub use times::device_that_keeps_times;

/// This host's name, as it calls itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The longest path of a Unix socket, bytes (sockaddr_un).
pub const LONGEST_SOCKET_PATH: usize = 107;
