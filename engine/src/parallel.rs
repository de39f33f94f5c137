//! Work on many things by a few threads of its own.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use crate::Result;

/// Does `work` on each of `items`, `threads` at once, and gives the results in the order of the items. The first error ends it; what
/// is under way then is waited for. Blocks.
pub(crate) fn in_parallel<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let outcome: Mutex<Result<Vec<(usize, R)>>> = Mutex::new(Ok(Vec::with_capacity(items.len())));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else {
                        return;
                    };
                    let result = work(item);
                    // A list that grows by whole results is never half changed.
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    match (&mut *outcome, result) {
                        (Ok(done), Ok(result)) => done.push((at, result)),
                        (Ok(_), Err(error)) => {
                            *outcome = Err(error);
                            next.store(items.len(), Ordering::Relaxed);
                        }
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    let mut done = outcome
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)?;
    done.sort_unstable_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn results_come_in_order_and_an_error_ends_it() {
        let items: Vec<usize> = (0..100).collect();
        let doubled = in_parallel(3, &items, |item| Ok(item * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|i| i * 2).collect::<Vec<_>>());
        let calls = AtomicUsize::new(0);
        let failed = in_parallel(3, &items, |item| {
            calls.fetch_add(1, Ordering::Relaxed);
            match item {
                5 => Err(Error::Closed),
                _ => Ok(()),
            }
        });
        assert!(failed.is_err());
        assert!(calls.into_inner() < items.len());
        assert!(in_parallel(4, &[0u8; 0], |_| Ok(1)).unwrap().is_empty());
    }
}
