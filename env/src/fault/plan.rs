//! [`FaultPlan`]: decides, operation by operation, what goes wrong. How it counts is told in [`fault`](crate::fault).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Error, ErrorKind, Op};

/// How many injections [`FaultPlan::injections`] remembers.
const INJECTIONS_KEPT_MAX: usize = 256;

/// What a rule does to the operation that it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The operation is not carried out; its caller gets an error of this kind.
    Fail(ErrorKind),
    /// The operation is carried out, but its answer, good or bad, is lost: the caller gets an error of this kind.
    FailAfter(ErrorKind),
    /// A prefix of the bytes is written, then an error of this kind. Matches [`Op::Append`], [`Op::WriteAt`],
    /// [`Op::WriterWrite`] and [`Op::Copy`] only.
    Torn(ErrorKind),
    /// A read gives fewer bytes than there are, and no error. Matches [`Op::Read`], [`Op::Get`], [`Op::GetRange`] only.
    Short,
    /// One bit of what a remote read gives is another, and no error. Matches [`Op::Get`] and [`Op::GetRange`] only.
    Corrupt,
    /// The operation is carried out after this time.
    Delay(Duration),
}

impl Effect {
    fn can_hit(self, op: Op) -> bool {
        match self {
            Effect::Fail(_) | Effect::FailAfter(_) | Effect::Delay(_) => true,
            Effect::Torn(_) => {
                matches!(op, Op::Append | Op::WriteAt | Op::WriterWrite | Op::Copy)
            }
            Effect::Short => matches!(op, Op::Read | Op::Get | Op::GetRange),
            Effect::Corrupt => matches!(op, Op::Get | Op::GetRange),
        }
    }
}

impl From<ErrorKind> for Effect {
    fn from(kind: ErrorKind) -> Self {
        Effect::Fail(kind)
    }
}

/// A part of some bytes, the same each time a plan is replayed; never the whole of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u16);

impl Share {
    /// How many of `len` bytes: 0 to `len - 1` (0 of 0).
    pub fn of(self, len: usize) -> usize {
        // The quotient is below `len`, so it fits.
        (len as u128 * u128::from(self.0) / (u128::from(u16::MAX) + 1)) as usize
    }
}

/// What becomes of one operation: the answer of [`FaultPlan::decide`], to be carried out by whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Carry it out.
    Pass,
    /// Do nothing and answer with [`FaultPlan::error`].
    Fail(ErrorKind),
    /// Carry it out, then answer with [`FaultPlan::error`] as if the answer had been lost.
    FailAfter(ErrorKind),
    /// Write only this share of the bytes, then answer with [`FaultPlan::error`].
    Torn(ErrorKind, Share),
    /// Carry it out and give only this share of the bytes that were read, without an error.
    Short(Share),
    /// Carry it out and change one bit of the byte that follows this share of those that were read.
    Corrupt(Share),
    /// Wait, then carry it out.
    Delay(Duration),
}

/// One fault that was injected, for a test to print when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The operation's number among those that matched, from 0.
    pub number: u64,
    /// The operation.
    pub op: Op,
    /// Its path or key.
    pub path: String,
}

#[derive(Debug, Clone, Copy)]
enum When {
    Never,
    Nth(u64),
    From(u64),
    Chance { probability: f64, seed: u64 },
}

type OpFilter = Box<dyn Fn(Op) -> bool + Send + Sync>;

struct State {
    enabled: bool,
    ops: OpFilter,
    path_part: String,
    when: When,
    effect: Effect,
    seen: u64,
    injected: u64,
    injections: Vec<Injection>,
    /// How often each operation was seen on each name, so that chance does not depend on how threads interleave.
    turns: HashMap<(Op, String), u64>,
}

/// A shared, thread-safe plan of faults. See [`fault`](crate::fault). A new plan matches everything and injects nothing.
pub struct FaultPlan(Mutex<State>);

impl FaultPlan {
    /// A plan that is enabled, matches every operation, and lets all of them pass.
    pub fn new() -> Arc<Self> {
        Arc::new(FaultPlan(Mutex::new(State {
            enabled: true,
            ops: Box::new(|_| true),
            path_part: String::new(),
            when: When::Never,
            effect: Effect::Fail(ErrorKind::Io),
            seen: 0,
            injected: 0,
            injections: Vec::new(),
            turns: HashMap::new(),
        })))
    }

    /// Only operations that `ops` accepts, on paths or keys that contain `path_part` (empty: all), match from now on.
    pub fn set_filter(
        &self,
        ops: impl Fn(Op) -> bool + Send + Sync + 'static,
        path_part: impl Into<String>,
    ) {
        let mut state = self.state();
        state.ops = Box::new(ops);
        state.path_part = path_part.into();
        state.restart();
    }

    /// Injects nothing, and goes on counting from 0.
    pub fn pass(&self) {
        self.set_rule(When::Never, Effect::Fail(ErrorKind::Io));
    }

    /// Hits the `n`-th matching operation from now on, counted from 0, once.
    pub fn fail_nth(&self, n: u64, effect: impl Into<Effect>) {
        self.set_rule(When::Nth(n), effect.into());
    }

    /// Hits the `n`-th matching operation from now on, counted from 0, and every one after it.
    pub fn fail_from(&self, n: u64, effect: impl Into<Effect>) {
        self.set_rule(When::From(n), effect.into());
    }

    /// Hits each matching operation with `probability` (0 to 1).
    ///
    /// The dice are a hash of `seed`, the operation, the last part of its path, and how often the two were seen before:
    /// the same run gives the same faults, in any temporary directory and however its threads interleave, as long as no
    /// two of them use the same operation on files of one name.
    pub fn probability(&self, probability: f64, seed: u64, effect: impl Into<Effect>) {
        self.set_rule(When::Chance { probability, seed }, effect.into());
    }

    /// Lets matching operations count and fail again. A new plan is enabled.
    pub fn enable(&self) {
        self.state().enabled = true;
    }

    /// Lets every operation pass without counting it, until [`enable`](Self::enable).
    pub fn disable(&self) {
        self.state().enabled = false;
    }

    /// Matching operations since the rule or the filter was set.
    pub fn seen(&self) -> u64 {
        self.state().seen
    }

    /// Faults injected since the rule or the filter was set, delays included.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    /// The first 256 of those faults.
    pub fn injections(&self) -> Vec<Injection> {
        self.state().injections.clone()
    }

    /// Counts an operation and says what becomes of it. Does not sleep: a delay is the caller's to wait for.
    pub fn decide(&self, op: Op, path: &str) -> Decision {
        let mut state = self.state();
        let matches = state.enabled
            && state.effect.can_hit(op)
            && (state.ops)(op)
            && path.contains(&state.path_part);
        if !matches {
            return Decision::Pass;
        }
        let number = state.seen;
        state.seen += 1;
        let (dice, share) = state.throw(op, path);
        let hit = match state.when {
            When::Never => false,
            When::Nth(n) => number == n,
            When::From(n) => number >= n,
            When::Chance { probability, .. } => dice < probability,
        };
        if !hit {
            return Decision::Pass;
        }
        state.injected += 1;
        if state.injections.len() < INJECTIONS_KEPT_MAX {
            let path = path.to_owned();
            state.injections.push(Injection { number, op, path });
        }
        match state.effect {
            Effect::Fail(kind) => Decision::Fail(kind),
            Effect::FailAfter(kind) => Decision::FailAfter(kind),
            Effect::Torn(kind) => Decision::Torn(kind, share),
            Effect::Short => Decision::Short(share),
            Effect::Corrupt => Decision::Corrupt(share),
            Effect::Delay(time) => Decision::Delay(time),
        }
    }

    /// The error that an injected fault of `kind` shows to its caller.
    pub fn error(kind: ErrorKind, op: Op, path: &str) -> Error {
        Error::new(kind, op.name(), path, "injected by a fault plan")
    }

    fn set_rule(&self, when: When, effect: Effect) {
        let mut state = self.state();
        state.when = when;
        state.effect = effect;
        state.restart();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only a panicking filter can poison the lock, and it leaves the counters as they were.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn restart(&mut self) {
        self.seen = 0;
        self.injected = 0;
        self.injections.clear();
        self.turns.clear();
    }

    /// A number in 0..1 and a share, both fixed by seed, operation, name and turn.
    fn throw(&mut self, op: Op, path: &str) -> (f64, Share) {
        let seed = match self.when {
            When::Chance { seed, .. } => seed,
            _ => 0,
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        let turn = self.turns.entry((op, name.to_owned())).or_default();
        let mut hash = xxh3_64_with_seed(op.name().as_bytes(), seed);
        hash = xxh3_64_with_seed(name.as_bytes(), hash);
        hash = xxh3_64_with_seed(&turn.to_le_bytes(), hash);
        *turn += 1;
        // 48 bits for the dice, 16 others for the share.
        let dice = (hash >> 16) as f64 / (1u64 << 48) as f64;
        (dice, Share(hash as u16))
    }
}

impl fmt::Debug for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("FaultPlan")
            .field("enabled", &state.enabled)
            .field("path_part", &state.path_part)
            .field("when", &state.when)
            .field("effect", &state.effect)
            .field("seen", &state.seen)
            .field("injected", &state.injected)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_hits_once_and_from_hits_for_ever() {
        let plan = FaultPlan::new();
        let run = || -> Vec<bool> {
            (0..4)
                .map(|_| plan.decide(Op::Sync, "/d/a") != Decision::Pass)
                .collect()
        };
        plan.fail_nth(1, ErrorKind::NoSpace);
        assert_eq!(run(), [false, true, false, false]);
        assert_eq!((plan.seen(), plan.injected()), (4, 1));
        assert_eq!(plan.injections()[0].number, 1);
        plan.fail_from(2, ErrorKind::NoSpace);
        assert_eq!(run(), [false, false, true, true]);
        plan.disable();
        assert_eq!(run(), [false; 4]);
        assert_eq!((plan.seen(), plan.injected()), (4, 2));
    }

    #[test]
    fn only_what_matches_is_numbered() {
        let plan = FaultPlan::new();
        plan.set_filter(|op| op != Op::Flush, ".sst");
        plan.fail_nth(0, Effect::Torn(ErrorKind::Io));
        assert_eq!(plan.decide(Op::Flush, "a.sst"), Decision::Pass);
        assert_eq!(plan.decide(Op::Append, "a.log"), Decision::Pass);
        assert_eq!(plan.decide(Op::Read, "a.sst"), Decision::Pass);
        assert_eq!(plan.seen(), 0);
        let Decision::Torn(ErrorKind::Io, share) = plan.decide(Op::Append, "a.sst") else {
            panic!("the append must be torn");
        };
        assert!(share.of(10) < 10 && share.of(1) == 0 && share.of(0) == 0);
    }

    #[test]
    fn chance_depends_on_the_name_and_not_on_the_order() {
        let plan = FaultPlan::new();
        let faults = |paths: &[&str]| -> Vec<String> {
            plan.probability(0.3, 7, ErrorKind::Unavailable);
            for path in paths {
                plan.decide(Op::Get, path);
            }
            let mut hit: Vec<String> = plan
                .injections()
                .iter()
                .filter_map(|i| Some(i.path.rsplit('/').next()?.to_owned()))
                .collect();
            hit.sort();
            hit
        };
        let paths: Vec<String> = (0..100).map(|i| format!("/x/{i}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let moved: Vec<String> = (0..100).rev().map(|i| format!("/y/{i}")).collect();
        let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
        let hit = faults(&paths);
        assert!((10..60).contains(&hit.len()), "{}", hit.len());
        assert_eq!(hit, faults(&moved));
    }
}
