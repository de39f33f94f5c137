//! A soak: everything at random for a while, against a model.
//!
//! Lives follow one another, each a backend that is opened from what the last one left: the local directory is kept or lost,
//! the load policy, the limit of the cache and the durability of the deal are drawn anew. In a life reads of every kind,
//! writes, deletes, iterators, compactions, snapshots and changes of limits go on, and for stretches the store fails, is slow,
//! answers short or flips bits. An answer may be a temporary error while it does; it is never a wrong value.
//!
//! What must not grow, is watched over the lives: open descriptors, threads, the process's memory, local files.
//!
//! `LAZURITE_SOAK_SECONDS` says for how long, 120 if it is not set; `LAZURITE_SOAK_SEED` which chances. `make soak` runs 30
//! minutes. In a process of its own, for the descriptors and the memory are the process's.

mod life;
mod process;
mod weather;

use std::{
    env,
    time::{Duration, Instant},
};

use life::Soak;
use process::Usage;

fn variable(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value}")),
        Err(_) => default,
    }
}

#[test]
fn a_soak_ends_as_its_model_says_and_leaks_nothing() {
    let time = Duration::from_secs(variable("LAZURITE_SOAK_SECONDS", 120));
    let seed = variable("LAZURITE_SOAK_SEED", rand::random());
    println!("LAZURITE_SOAK_SEED={seed}");
    let begun = Instant::now();
    let mut soak = Soak::new(seed);
    // Caches, pools and lazily made statics have their size after some lives.
    let mut usage: Vec<Usage> = Vec::new();
    while begun.elapsed() < time || usage.len() < 8 {
        soak.live();
        usage.push(Usage::now());
    }
    soak.end();
    println!("{} lives: {:?}", usage.len(), soak.done);
    let (first, last) = usage.split_at(usage.len() / 2);
    println!("after the first life {:?}", first[0]);
    println!("after the last life {:?}", last[last.len() - 1]);
    process::assert_no_growth(first, last);
}
