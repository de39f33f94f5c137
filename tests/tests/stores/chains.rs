//! Chains of processes and jobs over one state, on stores of each kind: what they hold, and that every object is accounted for.

use lazurite_tests::chain::{Outcome, run};

use crate::world::{Kind, World};

/// Processes in a chain.
const LIVES: u32 = 7;

/// `LAZURITE_CHAINS` asks for another number of chains.
fn chains(default: u64) -> u64 {
    let wanted = std::env::var("LAZURITE_CHAINS");
    wanted.map_or(default, |wanted| wanted.parse().expect("a number"))
}

fn live(kind: Kind, default: u64) {
    let mut all = Outcome::default();
    let count = chains(default);
    for seed in 0..count {
        let Some(world) = World::new(kind) else {
            return;
        };
        println!("chain {seed}");
        all += run(world.store(), seed, LIVES);
    }
    println!("{kind:?}: {count} chains, {all:?}");
    if count >= 5 {
        let happened = [all.snapshots, all.crashes, all.copied, all.claimed];
        assert!(happened.iter().all(|n| *n > 0), "{all:?}");
        assert!(all.orphans > 0, "crashes leave orphans");
    }
}

#[test]
fn on_a_file_system() {
    live(Kind::File, 50);
}

#[test]
fn in_memory() {
    live(Kind::Memory, 10);
}

#[test]
fn on_s3() {
    live(Kind::S3, 50);
}

#[test]
fn on_hdfs() {
    live(Kind::Hdfs, 3);
}
