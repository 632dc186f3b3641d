//! How often a time took how long: integer counts in fixed logarithmic buckets, so that histograms add up exactly.

/// The widest bucket in relation to the values in it: a percentile is too large by at most this share, never too small.
pub const RELATIVE_ERROR: f64 = 1.0 / 16.0;

/// Milliseconds below this have a bucket each.
const EXACT: u64 = 16;
/// Buckets of each doubling beyond.
const STEPS: u64 = 16;
/// The exponent of [`EXACT`].
const EXACT_BITS: u64 = 4;

/// The bucket of a value.
fn bucket(value: u64) -> u16 {
    if value < EXACT {
        return value as u16;
    }
    let doublings = u64::from(value.ilog2()) - EXACT_BITS;
    (EXACT + doublings * STEPS + ((value >> doublings) & (STEPS - 1))) as u16
}

/// The highest value of a bucket.
fn highest(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < EXACT {
        return bucket;
    }
    let (doublings, step) = ((bucket - EXACT) / STEPS, (bucket - EXACT) % STEPS);
    // In this order, since the last bucket ends where numbers end.
    ((EXACT + step) << doublings) + ((1 << doublings) - 1)
}

/// Counts by bucket, without the empty ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Histogram(Vec<(u16, u32)>);

impl Histogram {
    pub(super) fn add(&mut self, value: u64) {
        let bucket = bucket(value);
        match self.0.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(place) => self.0[place].1 += 1,
            Err(place) => self.0.insert(place, (bucket, 1)),
        }
    }

    /// Takes out a value that was added.
    pub(super) fn subtract(&mut self, value: u64) {
        let bucket = bucket(value);
        if let Ok(place) = self.0.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            self.0[place].1 -= 1;
            if self.0[place].1 == 0 {
                self.0.remove(place);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Histograms added up.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    /// By bucket, as far as there are any.
    counts: Vec<u64>,
}

impl Sum {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        let Some((last, _)) = histogram.0.last() else { return };
        if self.counts.len() <= usize::from(*last) {
            self.counts.resize(usize::from(*last) + 1, 0);
        }
        for (bucket, count) in &histogram.0 {
            self.counts[usize::from(*bucket)] += u64::from(*count);
        }
    }

    pub(super) fn spread(&self) -> Spread {
        let count: u64 = self.counts.iter().sum();
        let at = |share: u64| {
            // The nearest rank: the smallest value that so many hundredths of all are not above.
            let rank = (count * share).div_ceil(100).max(1);
            let mut seen = 0;
            let place = self.counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            place.map(|place| highest(place as u16))
        };
        let max = self.counts.iter().rposition(|count| *count > 0).map(|place| highest(place as u16));
        Spread { count, p50: at(50), p95: at(95), p99: at(99), max }
    }
}

/// Percentiles of times in milliseconds, by nearest rank, each the upper edge of its bucket: too large by at most
/// [`RELATIVE_ERROR`], never too small. `None` where there is no value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many values there are.
    pub count: u64,
    /// Half of them are not above.
    pub p50: Option<u64>,
    /// 95 of 100.
    pub p95: Option<u64>,
    /// 99 of 100.
    pub p99: Option<u64>,
    /// None of them is above.
    pub max: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = prop_oneof![0_u64..40, 0_u64..100_000, any::<u64>(), Just(u64::MAX), Just(1_u64 << 40)];
        prop::collection::vec(value, 0..200)
    }

    proptest! {
        #[test]
        fn percentiles_are_within_the_stated_error_and_what_is_taken_out_leaves_no_trace(
            mut values in values(),
            others in values(),
        ) {
            let mut histogram = Histogram::default();
            for value in values.iter().chain(&others) {
                histogram.add(*value);
            }
            for value in &others {
                histogram.subtract(*value);
            }
            let (one, other) = values.split_at(values.len() / 2);
            let mut sum = Sum::default();
            for part in [one, other] {
                let mut histogram = Histogram::default();
                for value in part {
                    histogram.add(*value);
                }
                sum.add(&histogram);
            }
            let mut whole = Sum::default();
            whole.add(&histogram);
            prop_assert_eq!(whole.spread(), sum.spread());
            prop_assert_eq!(histogram.is_empty(), values.is_empty());
            values.sort_unstable();
            let spread = sum.spread();
            prop_assert_eq!(spread.count, values.len() as u64);
            for (share, told) in [(50, spread.p50), (95, spread.p95), (99, spread.p99), (100, spread.max)] {
                let rank = (values.len() * share).div_ceil(100).max(1);
                let truth = values.get(rank - 1).copied();
                prop_assert_eq!(told.is_some(), truth.is_some());
                if let (Some(told), Some(truth)) = (told, truth) {
                    prop_assert!(told >= truth, "{} < {}", told, truth);
                    prop_assert!((told - truth) as f64 <= truth as f64 * RELATIVE_ERROR, "{} and {}", told, truth);
                }
            }
        }
    }
}
