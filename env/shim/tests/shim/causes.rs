//! Errors and panics of an Env come back typed.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use lazurite_env::{Env, ErrorKind, MemEnv, Result};
use lazurite_env_rocksdb::{RocksEnv, cause, rocksdb_env};

use crate::support::{HookEnv, PLACE, check, error, fill, is_sst, key, open, options, wrap};

const KINDS: [ErrorKind; 12] = [
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::PermissionDenied,
    ErrorKind::Locked,
    ErrorKind::NoSpace,
    ErrorKind::Corruption,
    ErrorKind::InvalidInput,
    ErrorKind::Unsupported,
    ErrorKind::TimedOut,
    ErrorKind::Unavailable,
    ErrorKind::Panicked,
    ErrorKind::Io,
];

type Fault = Arc<Mutex<Option<Box<dyn Fn(&'static str, &Path) -> Result<()> + Send>>>>;

/// Keeps the panics that tests make on purpose out of their output.
fn hide_bangs() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload_as_str().unwrap_or_default();
            if !text.starts_with("bang") {
                hook(info);
            }
        }));
    });
}

/// A memory Env whose fault can be changed while it runs.
fn breakable() -> (RocksEnv, Fault) {
    hide_bangs();
    let fault: Fault = Arc::default();
    let shared = fault.clone();
    let env = wrap(HookEnv::new(
        MemEnv::new(),
        move |operation, path| match &*shared.lock().unwrap_or_else(|e| e.into_inner()) {
            Some(fault) => fault(operation, path),
            None => Ok(()),
        },
    ));
    (env, fault)
}

fn set(fault: &Fault, body: impl Fn(&'static str, &Path) -> Result<()> + Send + 'static) {
    *fault.lock().unwrap_or_else(|e| e.into_inner()) = Some(Box::new(body));
}

fn clear(fault: &Fault) {
    *fault.lock().unwrap_or_else(|e| e.into_inner()) = None;
}

fn typed(e: &rocksdb::Error) -> lazurite_env::Error {
    cause(e.as_ref()).unwrap_or_else(|| panic!("no cause in {e}"))
}

#[test]
fn every_kind_of_a_failed_read_arrives() {
    let (env, fault) = breakable();
    let db = open(&options(&env), PLACE).unwrap();
    fill(&db, 0..100);
    db.flush().unwrap();
    for kind in KINDS {
        set(&fault, move |operation, path| match operation {
            "read" | "read many" | "start read" if is_sst(path) => {
                Err(error(kind, operation, path))
            }
            _ => Ok(()),
        });
        let e = db.get(key(5)).unwrap_err();
        assert_eq!(typed(&e).kind(), kind, "{e}");
        assert_eq!(typed(&e).message(), "made by a test");
        assert!(is_sst(Path::new(typed(&e).path())));
        let batch =
            db.batched_multi_get_cf(&db.cf_handle("default").unwrap(), [key(5)].iter(), true);
        let e = batch.into_iter().next().unwrap().err().unwrap();
        assert_eq!(typed(&e).kind(), kind, "{e}");
        let e = db
            .iterator(rocksdb::IteratorMode::Start)
            .next()
            .unwrap()
            .unwrap_err();
        assert_eq!(typed(&e).kind(), kind, "{e}");
    }
    clear(&fault);
    check(&db, 0..100);
}

#[test]
fn every_operation_of_an_open_reports_its_failure() {
    let operations = [
        "create dir",
        "list",
        "lock",
        "create",
        "append",
        "sync",
        "rename",
        "sync dir",
        "stat",
        "open sequential",
        "sequential read",
        "open random",
    ];
    for failing in operations {
        for panics in [false, true] {
            let (env, fault) = breakable();
            // A database with a file, so that there is something of everything to fail.
            let db = open(&options(&env), PLACE).unwrap();
            fill(&db, 0..100);
            db.flush().unwrap();
            drop(db);
            let place = if failing == "create dir" {
                "/etc"
            } else {
                PLACE
            };
            set(&fault, move |operation, path| match operation == failing {
                // The LOG is allowed to fail.
                true if path.ends_with("LOG") || path.to_string_lossy().contains("LOG.old") => {
                    Ok(())
                }
                true if panics => panic!("bang in {failing}"),
                true => Err(error(ErrorKind::PermissionDenied, operation, path)),
                false => Ok(()),
            });
            let expected = if panics {
                ErrorKind::Panicked
            } else {
                ErrorKind::PermissionDenied
            };
            match open(&options(&env), place) {
                Err(e) => assert_eq!(typed(&e).kind(), expected, "{failing}: {e}"),
                Ok(_) => panic!("{failing} failed and nobody noticed"),
            }
            clear(&fault);
            check(&open(&options(&env), PLACE).unwrap(), 0..100);
        }
    }
}

#[test]
fn a_panic_of_a_destructor_or_a_background_thread_ends_nothing() {
    let (env, fault) = breakable();
    let db = open(&options(&env), PLACE).unwrap();
    set(&fault, |operation, _| match operation {
        "drop" => panic!("bang"),
        _ => Ok(()),
    });
    fill(&db, 0..20_000);
    db.flush().unwrap();
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    check(&db, 0..20_000);
    drop(db);
    set(&fault, |operation, path| match operation {
        "append" if is_sst(path) => panic!("bang in a flush"),
        _ => Ok(()),
    });
    let db = open(&options(&env), PLACE).unwrap();
    db.put("a", "b").unwrap();
    let e = db.flush().unwrap_err();
    assert_eq!(typed(&e).kind(), ErrorKind::Panicked);
    assert_eq!(typed(&e).message(), "bang in a flush");
}

#[test]
fn a_missing_database_is_missing_and_a_locked_one_locked() {
    let (env, _) = breakable();
    let mut missing = options(&env);
    missing.create_if_missing(false);
    let e = open(&missing, PLACE).unwrap_err();
    assert!(e.as_ref().contains("does not exist"), "{e}");
    let _db = open(&options(&env), PLACE).unwrap();
    let e = open(&options(&env), PLACE).unwrap_err();
    assert!(e.as_ref().contains("lock hold by"), "{e}");
    assert_eq!(typed(&e).kind(), ErrorKind::Locked);
}

#[test]
fn a_lost_table_file_is_told_as_not_found() {
    let memory = MemEnv::new();
    let env = rocksdb_env(Arc::new(memory.clone())).unwrap();
    let db = open(&options(&env), PLACE).unwrap();
    fill(&db, 0..100);
    db.flush().unwrap();
    let name = db.live_files().unwrap()[0].name.clone();
    drop(db);
    memory.delete(Path::new(&format!("{PLACE}{name}"))).unwrap();
    let e = open(&options(&env), PLACE).unwrap_err();
    assert_eq!(typed(&e).kind(), ErrorKind::NotFound, "{e}");
}

#[test]
fn rocksdb_resumes_by_itself_after_a_temporary_failure() {
    let (env, fault) = breakable();
    let db = open(&options(&env), PLACE).unwrap();
    let failed = Arc::new(AtomicBool::new(false));
    let seen = failed.clone();
    set(&fault, move |operation, path| match operation {
        "append" if is_sst(path) => {
            seen.store(true, SeqCst);
            Err(error(ErrorKind::Unavailable, operation, path))
        }
        _ => Ok(()),
    });
    fill(&db, 0..10);
    let e = db.flush().unwrap_err();
    assert!(typed(&e).is_temporary() && failed.load(SeqCst));
    clear(&fault);
    let until = Instant::now() + Duration::from_secs(20);
    while db.put(key(10), crate::support::value(10)).is_err() || db.flush().is_err() {
        assert!(Instant::now() < until, "RocksDB did not resume");
        std::thread::sleep(Duration::from_millis(20));
    }
    check(&db, 0..11);
}
