//! Which keys are read: the same for every policy.

use super::shape::Noise;

/// How often each key is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// A few keys often, most hardly ever: exponent 0.99, as in YCSB.
    Zipf,
    /// The same, where the more often keys are asked for, the nearer to the first they lie.
    Clustered,
    /// Each as often as every other.
    Uniform,
}

impl Distribution {
    /// As the report names it.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Zipf => "zipf-0.99",
            Distribution::Clustered => "zipf-0.99-clustered",
            Distribution::Uniform => "uniform",
        }
    }

    /// `reads` of the keys 0 to `keys - 1`. Those that are asked for often lie anywhere among the others, unless they are
    /// clustered.
    pub fn trace(self, keys: u64, reads: u64) -> Vec<u64> {
        let mut noise = Noise::new(1);
        match self {
            Distribution::Uniform => (0..reads).map(|_| noise.next() % keys).collect(),
            Distribution::Zipf | Distribution::Clustered => {
                let zipf = Zipf::new(keys);
                let place = |rank| match self {
                    Distribution::Clustered => rank,
                    _ => Noise::new(rank).next() % keys,
                };
                (0..reads)
                    .map(|_| place(zipf.rank(unit(&mut noise))))
                    .collect()
            }
        }
    }
}

/// From 0 up to, but not, 1.
fn unit(noise: &mut Noise) -> f64 {
    (noise.next() >> 11) as f64 / (1u64 << 53) as f64
}

const THETA: f64 = 0.99;

/// Ranks of a Zipf distribution, by the approximation of Gray et al., "Quickly generating billion-record synthetic
/// databases" (1994).
struct Zipf {
    n: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(n: u64) -> Self {
        let zeta: f64 = (1..=n).map(|i| (i as f64).powf(-THETA)).sum();
        let two = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / n as f64).powf(1.0 - THETA)) / (1.0 - two / zeta);
        Zipf {
            n: n as f64,
            zeta,
            eta,
        }
    }

    fn rank(&self, u: f64) -> u64 {
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        let rank = self.n * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        (rank as u64).min(self.n as u64 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ranks_are_as_frequent_as_zipf_says() {
        let zipf = Zipf::new(100_000);
        let mut noise = Noise::new(7);
        let mut counts = [0u32; 3];
        let mut beyond = 0;
        const DRAWS: u32 = 200_000;
        for _ in 0..DRAWS {
            let rank = zipf.rank(unit(&mut noise));
            assert!(rank < 100_000);
            match counts.get_mut(rank as usize) {
                Some(count) => *count += 1,
                None => beyond += u32::from(rank >= 50_000),
            }
        }
        for (rank, count) in counts.into_iter().enumerate() {
            let expected = (rank as f64 + 1.0).powf(-THETA) / zipf.zeta * f64::from(DRAWS);
            let off = f64::from(count) / expected;
            // The third is an approximation.
            assert!((0.75..1.25).contains(&off), "rank {rank}: {off}");
        }
        assert!(beyond > DRAWS / 50, "{beyond}");
    }

    #[test]
    fn traces_are_the_same_each_time_and_inside() {
        for distribution in [
            Distribution::Zipf,
            Distribution::Clustered,
            Distribution::Uniform,
        ] {
            let trace = distribution.trace(1000, 5000);
            assert_eq!(trace, distribution.trace(1000, 5000));
            assert!(trace.iter().all(|key| *key < 1000));
        }
    }
}
