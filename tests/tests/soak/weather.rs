//! What the store is like for a while.

use std::{sync::Arc, time::Duration};

use lazurite_env::{Effect, ErrorKind, FaultPlan, Op};
use rand::{Rng, rngs::StdRng};

/// Whether answers may be errors now, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing fails.
    Fair,
    /// Requests fail for a moment, or are slow.
    Rough,
    /// Reads answer short or with other bits.
    Lying,
}

impl Weather {
    /// Draws the next weather and makes it so.
    pub fn next(plan: &Arc<FaultPlan>, rng: &mut StdRng) -> Self {
        let seed = rng.random();
        plan.set_filter(|_| true, "");
        let (weather, effect) = match rng.random_range(0..10) {
            0..5 => {
                plan.pass();
                return Weather::Fair;
            }
            5 => (Weather::Rough, Effect::Fail(ErrorKind::Unavailable)),
            6 => (Weather::Rough, Effect::FailAfter(ErrorKind::TimedOut)),
            7 => (Weather::Rough, Effect::Delay(Duration::from_millis(20))),
            8 => (Weather::Lying, Effect::Short),
            _ => (Weather::Lying, Effect::Corrupt),
        };
        if weather == Weather::Lying {
            plan.set_filter(|op| op == Op::GetRange, ".sst");
        }
        let share = [0.02, 0.2, 1.0][rng.random_range(0..3)];
        plan.probability(share, seed, effect);
        weather
    }

    /// The store is well again.
    pub fn clear(plan: &Arc<FaultPlan>) -> Self {
        plan.pass();
        Weather::Fair
    }
}
