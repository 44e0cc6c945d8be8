//! Columns: the same field of all records is stored together, as the difference from what was
//! expected, in as few bytes as that needs. It compresses to less than half of what the records
//! would.

use super::{put_bytes, take, take_bytes};

/// Columns to be written, numbered in the order in which they are stored.
#[derive(Debug)]
pub(crate) struct Columns<const N: usize>([Vec<u8>; N]);

impl<const N: usize> Columns<N> {
    pub(crate) const fn new() -> Self {
        Self([const { Vec::new() }; N])
    }

    pub(crate) fn put_number(&mut self, column: usize, mut number: u64) {
        let bytes = &mut self.0[column];
        while number >= 0x80 {
            bytes.push(low_byte(number) | 0x80);
            number >>= 7;
        }
        bytes.push(low_byte(number));
    }

    /// How much more, or less, `number` is than `expected`: zigzag, so that what is near takes one byte.
    pub(crate) fn put_change(&mut self, column: usize, expected: i64, number: i64) {
        let change = number.wrapping_sub(expected);
        self.put_number(column, ((change << 1) ^ (change >> 63)).cast_unsigned());
    }

    pub(crate) fn put_bytes(&mut self, column: usize, bytes: &[u8]) {
        self.0[column].extend_from_slice(bytes);
    }

    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        for column in &self.0 {
            put_bytes(out, column);
        }
    }
}

const fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// Columns to be read from the beginning. What is not there, or not in the form in which it is written, is `None`.
#[derive(Debug)]
pub(crate) struct ColumnReader<'a, const N: usize>([&'a [u8]; N]);

impl<'a, const N: usize> ColumnReader<'a, N> {
    pub(crate) fn take_from(input: &mut &'a [u8]) -> Option<Self> {
        let mut columns = [&[][..]; N];
        for column in &mut columns {
            *column = take_bytes(input)?;
        }
        Some(Self(columns))
    }

    pub(crate) fn number(&mut self, column: usize) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = take(&mut self.0[column])?;
            let part = u64::from(byte & 0x7f) << shift;
            if part >> shift != u64::from(byte & 0x7f) || (byte == 0 && shift > 0) {
                return None;
            }
            number |= part;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub(crate) fn word(&mut self, column: usize) -> Option<u32> {
        self.number(column)?.try_into().ok()
    }

    pub(crate) fn changed(&mut self, column: usize, expected: i64) -> Option<i64> {
        let zigzag = self.number(column)?;
        let change = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        Some(expected.wrapping_add(change))
    }

    pub(crate) fn changed_word(&mut self, column: usize, expected: u32) -> Option<u32> {
        self.changed(column, expected.into())?.try_into().ok()
    }

    pub(crate) fn fixed<const LEN: usize>(&mut self, column: usize) -> Option<[u8; LEN]> {
        take(&mut self.0[column])
    }

    /// Up to the next byte 0, which goes with it.
    pub(crate) fn text(&mut self, column: usize) -> Option<&'a [u8]> {
        let len = self.0[column].iter().position(|byte| *byte == 0)?;
        let (text, rest) = self.0[column].split_at(len);
        self.0[column] = &rest[1..];
        Some(text)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|column| column.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_changes_round_trip_in_few_bytes() {
        for (number, len) in [(0, 1), (127, 1), (128, 2), (16383, 2), (u64::MAX >> 1, 9), (u64::MAX, 10)] {
            let mut columns = Columns::<2>::new();
            columns.put_number(1, number);
            assert_eq!(columns.0[1].len(), len, "{number}");
            let mut bytes = Vec::new();
            columns.append_to(&mut bytes);
            let mut reader = ColumnReader::<2>::take_from(&mut bytes.as_slice()).unwrap();
            assert_eq!((reader.number(0), reader.number(1)), (None, Some(number)));
            assert!(reader.is_empty());
        }
        for (expected, number, len) in
            [(5, 5, 1), (5, 4, 1), (100, 36, 1), (100, 164, 2), (i64::MIN, i64::MAX, 1), (-1, i64::MAX, 10)]
        {
            let mut columns = Columns::<1>::new();
            columns.put_change(0, expected, number);
            assert_eq!(columns.0[0].len(), len, "{expected} {number}");
            assert_eq!(ColumnReader([&columns.0[0]]).changed(0, expected), Some(number));
        }
    }

    #[test]
    fn another_form_of_a_number_is_refused() {
        for bytes in [
            &[0x80_u8, 0][..],
            &[0xff; 10],
            &[0x80; 3],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(ColumnReader([bytes]).number(0), None, "{bytes:x?}");
        }
        assert_eq!(ColumnReader([&[0xff, 0xff, 0xff, 0xff, 0x10]]).word(0), None);
        assert_eq!(ColumnReader([&[1]]).changed_word(0, 0), None, "less than nothing");
    }
}
