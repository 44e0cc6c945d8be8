//! Repeatable randomness: the seed is printed, so that a failure can be run again.

use std::sync::OnceLock;
use std::time::SystemTime;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// The seed of this test process: the number in `WALPROOF_TEST_SEED`, else the clock. Printed at first use.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("WALPROOF_TEST_SEED").ok().filter(|text| text != "random");
        let parse =
            |text: String| text.parse().unwrap_or_else(|_| panic!("WALPROOF_TEST_SEED={text} is no number"));
        let seed = given.map_or_else(from_clock, parse);
        eprintln!("seed: run again with WALPROOF_TEST_SEED={seed}");
        seed
    })
}

fn from_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("clock after 1970");
    now.as_secs() ^ u64::from(now.subsec_nanos())
}

/// Numbers from a seed, the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(SplitMix64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(SplitMix64::seed_from_u64(seed))
    }

    /// A stream of this test process's [`seed`]; `label` keeps two uses apart.
    pub fn from_seed(label: &str) -> Self {
        Self::new(seed() ^ u64::from(crc32c::crc32c(label.as_bytes())))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        self.next_u64() % bound
    }

    pub fn fill(&mut self, buffer: &mut [u8]) {
        self.0.fill_bytes(buffer);
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        self.fill(&mut buffer);
        buffer
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}
