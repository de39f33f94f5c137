//! A test that hangs must say where, not stop the whole run for ever.

use std::{
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

/// Runs `f` on this thread. Where it takes longer than `limit`, prints `what` and aborts the process: a thread that
/// hangs cannot be ended otherwise.
pub fn within<T>(limit: Duration, what: &str, f: impl FnOnce() -> T) -> T {
    let (alive, ended) = channel::<()>();
    let message = format!("hung for {limit:?}: {what}");
    let dog = std::thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{message}");
            std::process::abort();
        }
    });
    let result = f();
    drop(alive);
    dog.join().expect("the watchdog only waits");
    result
}
