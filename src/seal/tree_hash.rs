//! BLAKE3 of bytes whose parts are hashed apart, on several threads: a part is a subtree (BLAKE3, section 2.1).

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// What a part adds to the hash: its chaining value; of an only part the hash itself.
pub(crate) type PartHash = [u8; 32];

/// The part `bytes`, which begins at `at` in `len` bytes. All parts but the last are as long, a power of two, 1 KiB at least.
pub(crate) fn of_part(bytes: &[u8], at: u64, len: u64) -> PartHash {
    if bytes.len() as u64 == len {
        return *blake3::hash(bytes).as_bytes();
    }
    Hasher::new().set_input_offset(at).update(bytes).finalize_non_root()
}

/// The hash of all `parts`, in order.
pub(crate) fn of_parts(parts: &[PartHash]) -> [u8; 32] {
    match parts {
        [] => *blake3::hash(b"").as_bytes(),
        [one] => *one,
        _ => {
            let (left, right) = halves(parts);
            *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
        }
    }
}

fn subtree(parts: &[PartHash]) -> PartHash {
    if let [one] = parts {
        return *one;
    }
    let (left, right) = halves(parts);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// The left one is the largest power of two that leaves something for the right one.
fn halves(parts: &[PartHash]) -> (&[PartHash], &[PartHash]) {
    parts.split_at(parts.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hashed_apart_give_the_hash_of_the_whole() {
        const PART: usize = 4096;
        let ends = (0..=17).flat_map(|parts| [parts * PART, parts * PART + 1, parts * PART + 1025]);
        for len in ends {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let parts = bytes.chunks(PART).enumerate();
            let parts: Vec<_> =
                parts.map(|(index, part)| of_part(part, (index * PART) as u64, len as u64)).collect();
            assert_eq!(of_parts(&parts), *blake3::hash(&bytes).as_bytes(), "{len}");
        }
    }
}
