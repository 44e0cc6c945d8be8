//! Memory that files are read into, placed where the processor is fast at it.

/// Bytes of a page of memory.
const PAGE: usize = 4096;
/// Where in a page the buffer begins. The kernel copies with `rep movsb`. On AMD's Zen 3 and 4 that takes up to nine times as
/// long where the destination lies a few bytes further into its page than the source into its own: and a large `Vec` begins
/// 16 bytes behind a page's boundary (so glibc maps them), a piece of a file at the boundary. Half a page away is safe from both
/// sides.
const PLACE: usize = PAGE / 2;

/// A buffer that is reused and grows as asked.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    begin: usize,
}

impl ReadBuffer {
    /// `len` bytes to be overwritten: they hold whatever was there before.
    pub fn take(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len + PAGE {
            // Not grown in place: what it holds is not worth a copy.
            self.bytes = vec![0; len + PAGE];
            self.begin = (self.bytes.as_ptr().align_offset(PAGE) + PLACE) % PAGE;
        }
        &mut self.bytes[self.begin..self.begin + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_in_the_middle_of_a_page_and_is_as_long_as_asked() {
        let mut buffer = ReadBuffer::default();
        for len in [0, 1, 8192, 1 << 20, 100, (1 << 20) + 1, 5 << 20] {
            let bytes = buffer.take(len);
            assert_eq!((bytes.len(), bytes.as_ptr().align_offset(PAGE)), (len, PLACE));
        }
    }
}
