//! Writing much at a time.

use std::io::{self, Write};

/// Bytes of one write, at most. Linux (6.16 on ext4, 5.18 on XFS) gives a long write page cache in blocks as long as the write,
/// up to 2 MiB. In a virtual machine the host takes back free memory in blocks of 2 MiB, and supplies each anew when it is
/// written to: 16 MiB in writes of 2 MiB took 65 ms, in writes of 64 KiB to 1 MiB 9 ms.
pub const LONGEST_WRITE: usize = 256 << 10;

/// Write all of `bytes`, in writes of [`LONGEST_WRITE`].
pub fn write_in_pieces(file: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(LONGEST_WRITE).try_for_each(|piece| file.write_all(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_written_and_no_write_is_long() {
        #[derive(Default)]
        struct Writes(Vec<Vec<u8>>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for len in [0, 1, LONGEST_WRITE, LONGEST_WRITE + 1, 5 * LONGEST_WRITE] {
            let bytes: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[1]).collect();
            let mut writes = Writes::default();
            write_in_pieces(&mut writes, &bytes).unwrap();
            assert!(writes.0.iter().all(|write| write.len() <= LONGEST_WRITE));
            assert!(writes.0.concat() == bytes, "{len}");
        }
    }
}
