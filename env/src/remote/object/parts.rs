//! How an object is cut into parts whose number and length stay within what S3 and its like take.

/// Parts that one upload may have.
const PARTS_MAX: u32 = 10_000;

/// Parts that are of one length; some stores (Cloudflare R2) take no others.
const EQUAL_PARTS: u32 = 5_000;

/// After the equal ones, the length doubles each time that so many parts were sent.
const DOUBLED_EVERY: u32 = 1_000;

/// Longest part that S3 takes: 5 GiB.
const PART_BYTES_MAX: u64 = 5 << 30;

/// The lengths of the parts of an object whose length is not known when it is begun. With parts of 8 MiB: equal up to
/// 39 GiB, then longer ones up to 523 GiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartPlan {
    /// Length of the first part, at least 5 MiB and at most 1 GiB by the options' own check.
    pub(super) first_bytes: u64,
}

impl PartPlan {
    /// The length in bytes of part `number`, counted from 0, unless it is the last and shorter. `None`: there are no more.
    pub(super) fn part_bytes(self, number: u32) -> Option<u64> {
        if number >= PARTS_MAX {
            return None;
        }
        let doubled = match number.checked_sub(EQUAL_PARTS) {
            None => 0,
            Some(beyond) => 1 + beyond / DOUBLED_EVERY,
        };
        Some((self.first_bytes << doubled).min(PART_BYTES_MAX))
    }

    /// Length of the longest object.
    pub(super) fn object_bytes_max(self) -> u64 {
        (0..PARTS_MAX)
            .filter_map(|part| self.part_bytes(part))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of an object of that length, as the upload cuts it.
    fn parts_of(plan: PartPlan, mut len: u64) -> Option<Vec<u64>> {
        let mut parts = Vec::new();
        while len > 0 {
            let part = plan.part_bytes(parts.len() as u32)?.min(len);
            parts.push(part);
            len -= part;
        }
        Some(parts)
    }

    #[test]
    fn a_large_file_is_cut_within_the_limits_of_s3() {
        let plan = PartPlan {
            first_bytes: 8 << 20,
        };
        assert_eq!(parts_of(plan, (64 << 20) + 1).unwrap().len(), 9);
        for len in [5 << 30, (5 << 30) + 1, 100 << 30, plan.object_bytes_max()] {
            let parts = parts_of(plan, len).unwrap();
            assert_eq!(parts.iter().sum::<u64>(), len);
            assert!(parts.len() <= 10_000);
            let (last, others) = parts.split_last().unwrap();
            assert!(others.iter().all(|part| (5 << 20..=5 << 30).contains(part)));
            assert!(*last <= 5 << 30);
        }
        // All but the last of one length, for an object that R2 takes as well.
        let equal = parts_of(plan, 39 << 30).unwrap();
        assert!(equal[..equal.len() - 1].iter().all(|part| *part == 8 << 20));
        assert!(parts_of(plan, plan.object_bytes_max() + 1).is_none());
        assert_eq!(plan.object_bytes_max() >> 30, 523);
    }

    #[test]
    fn the_longest_parts_reach_the_longest_object_of_s3() {
        let plan = PartPlan {
            first_bytes: 1 << 30,
        };
        assert_eq!(plan.part_bytes(9_999), Some(5 << 30));
        assert!(plan.object_bytes_max() > 5 << 40);
    }
}
