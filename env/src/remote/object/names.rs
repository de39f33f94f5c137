//! Cutting a long listing into parts that are asked for at the same time.
//!
//! A store gives out 1,000 names a request, and the next request needs the answer of the one before: a listing of
//! 20,000 table files is 20 round trips. Whoever knows about which names there are can ask for all pages at once.

/// Names that a part is cut after. Below the 1,000 of a page, so that a part is one page also where the store holds some
/// objects that nobody expects; what else it holds costs further pages.
const PART_NAMES: usize = 800;

/// The names above `after` and up to `until`, that one with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NameRange {
    pub(super) after: Option<String>,
    pub(super) until: Option<String>,
}

impl NameRange {
    /// Parts that have every name among them, exactly once. `likely` in any order.
    pub(super) fn cut(mut likely: Vec<&str>) -> Vec<NameRange> {
        likely.sort_unstable();
        likely.dedup();
        let mut parts = Vec::new();
        let mut after = None;
        // The last part has no end, and so has the names of a last, short piece.
        let cuts = likely.len().saturating_sub(1) / PART_NAMES;
        for piece in likely.chunks(PART_NAMES).take(cuts) {
            let until = piece.last().map(|name| (*name).to_owned());
            parts.push(NameRange {
                after,
                until: until.clone(),
            });
            after = until;
        }
        parts.push(NameRange { after, until: None });
        parts
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.after.as_deref().is_none_or(|after| after < name) && !self.is_before(name)
    }

    /// True where the whole part lies before `name`.
    pub(super) fn is_before(&self, name: &str) -> bool {
        self.until.as_deref().is_some_and(|until| until < name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_every_name_once() {
        for count in [0usize, 1, 799, 800, 801, 1600, 1601, 2036, 20_000] {
            let names: Vec<String> = (0..count).map(|i| format!("{i:05}.sst")).collect();
            let parts = NameRange::cut(names.iter().rev().map(String::as_str).collect());
            assert_eq!(parts.len(), count.div_ceil(800).max(1), "{count}");
            let others = ["", "0", "00799.sst0", "zzz"].map(str::to_owned);
            for name in names.iter().chain(&others) {
                let holding = parts.iter().filter(|part| part.contains(name)).count();
                assert_eq!(holding, 1, "{name} of {count}");
            }
            for part in &parts {
                let expected = names.iter().filter(|name| part.contains(name)).count();
                assert!(expected <= 800, "{expected} in {part:?}");
            }
        }
    }

    #[test]
    fn names_that_come_twice_are_one() {
        let parts = NameRange::cut(vec!["a"; 5000]);
        assert_eq!(parts, [NameRange::default()]);
    }
}
