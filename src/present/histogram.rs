//! How often something took how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets in seconds.
pub const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Observations by length.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Observations up to each bound of [`BUCKETS`], not cumulative; the last one is for all that are longer.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Seconds of all observations together.
    pub sum: f64,
}

impl Histogram {
    /// Note one.
    pub fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket] += 1;
        self.sum += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_longer_ones_to_the_last() {
        let mut histogram = Histogram::default();
        for seconds in [0.005, 0.006, 60.0, 61.0, 1e6] {
            histogram.observe(Duration::from_secs_f64(seconds));
        }
        assert_eq!((histogram.buckets[0], histogram.buckets[1]), (1, 1));
        assert_eq!((histogram.buckets[11], histogram.buckets[12]), (1, 2));
        assert_eq!(histogram.buckets.iter().sum::<u64>(), 5);
    }
}
