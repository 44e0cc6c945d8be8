//! Pseudo-random numbers for unit tests, the same ones each time.

/// A stream of numbers of 31 bits (Knuth's MMIX generator).
pub(crate) fn noise() -> impl FnMut() -> usize {
    let mut state = 1_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    }
}
