//! What RocksDB tells while it works behind our back: compactions, flushes and background errors.
//!
//! Each compaction is a `tracing` span, open from its beginning to its end; flushes and background errors are events. What
//! has ended is added up in [`Work`].
//!
//! One error is taken back here. RocksDB opens the table files behind an open, and treats a file that does not open as an
//! error of the whole database, which it means to recover from: `ErrorHandler::HandleKnownErrors` of 11.8.1 notes that a
//! recovery is under way, nothing ever begins one, and closing the database waits for its end for ever. The file's first
//! reader gets the error anyway, so that what happened behind the open is logged and forgotten. Two kinds are not. After
//! corruption RocksDB stops writes for good, as it should, and closes. A temporary error it keeps before it tells: it stops
//! writes until it has recovered, which it does begin then.

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr, slice,
    sync::{Arc, Mutex, PoisonError},
};

use librocksdb_sys as ffi;
use rocksdb::{AsRawPtr, Options};
use tracing::Span;

use super::{error, figures::Work};

/// What RocksDB calls the end of work behind when the database is closed.
const SHUTDOWN: &str = "Shutdown in progress";

/// `BackgroundErrorReason` of RocksDB's `listener.h`, in its order.
const REASONS: [&str; 8] = [
    "flush",
    "compact",
    "write",
    "insert into the memtable of",
    "write the MANIFEST of",
    "flush",
    "write the MANIFEST of",
    "open the table files of",
];
const ASYNC_FILE_OPEN: u32 = 7;

/// The listener's state; RocksDB frees it with the listener.
struct Listener {
    work: Arc<Work>,
    /// Span of each compaction that runs, by its job. Not entered: what ends on RocksDB's thread may not have begun there.
    compactions: Mutex<HashMap<c_int, Span>>,
}

/// Makes the databases that are opened with `options` tell what they do.
pub(super) fn listen(options: &Options, work: &Arc<Work>) {
    let state = Box::into_raw(Box::new(Listener {
        work: work.clone(),
        compactions: Mutex::default(),
    }));
    // SAFETY: every callback is there, since RocksDB calls them unchecked. `state` is freed once, by `destroy`. The options
    // take the listener over, and copies of them share it.
    unsafe {
        let listener = ffi::rocksdb_eventlistener_create(
            state.cast(),
            Some(destroy),
            Some(ignore_flush),
            Some(flushed),
            Some(compaction_begins),
            Some(compacted),
            Some(ignore_subcompaction),
            Some(ignore_subcompaction),
            Some(ignore_ingestion),
            Some(background_error),
            Some(ignore_stall),
            Some(ignore_memtable),
        );
        ffi::rocksdb_options_add_eventlistener(options.as_raw_ptr(), listener);
    }
}

/// Runs `told`, and stops a panic (of a subscriber, say) at the C ABI: RocksDB goes on.
fn guarded(told: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(told));
}

unsafe extern "C" fn destroy(state: *mut c_void) {
    // SAFETY: made by `listen`, and called once.
    let state = unsafe { Box::from_raw(state.cast::<Listener>()) };
    guarded(|| drop(state));
}

unsafe extern "C" fn compaction_begins(
    state: *mut c_void,
    _: *mut ffi::rocksdb_t,
    info: *const ffi::rocksdb_compactionjobinfo_t,
) {
    guarded(|| {
        // SAFETY: `state` lives as long as the listener, and `info` as long as this call.
        let (state, job, table, from, to, files, bytes) = unsafe {
            (
                &*state.cast::<Listener>(),
                ffi::rocksdb_compactionjobinfo_job_id(info),
                name(|len| ffi::rocksdb_compactionjobinfo_cf_name(info, len)),
                ffi::rocksdb_compactionjobinfo_base_input_level(info),
                ffi::rocksdb_compactionjobinfo_output_level(info),
                ffi::rocksdb_compactionjobinfo_input_files_count(info),
                ffi::rocksdb_compactionjobinfo_total_input_bytes(info),
            )
        };
        let span = tracing::info_span!(
            parent: None,
            "compaction",
            job,
            table,
            from,
            to,
            input_files = files,
            input_bytes = bytes,
            output_files = tracing::field::Empty,
            output_bytes = tracing::field::Empty,
        );
        state.compactions().insert(job, span);
    });
}

unsafe extern "C" fn compacted(
    state: *mut c_void,
    _: *mut ffi::rocksdb_t,
    info: *const ffi::rocksdb_compactionjobinfo_t,
) {
    guarded(|| {
        // SAFETY: `state` lives as long as the listener, and `info` as long as this call. `failure` is a string or null.
        let (state, job, files, read, bytes, micros, failure) = unsafe {
            let mut failure = ptr::null_mut();
            ffi::rocksdb_compactionjobinfo_status(info, &mut failure);
            (
                &*state.cast::<Listener>(),
                ffi::rocksdb_compactionjobinfo_job_id(info),
                ffi::rocksdb_compactionjobinfo_output_files_count(info),
                ffi::rocksdb_compactionjobinfo_total_input_bytes(info),
                ffi::rocksdb_compactionjobinfo_total_output_bytes(info),
                ffi::rocksdb_compactionjobinfo_elapsed_micros(info),
                take_message(failure),
            )
        };
        let work = &*state.work;
        match failure {
            None => Work::add(&work.compactions, 1),
            Some(_) => Work::add(&work.failed_compactions, 1),
        }
        Work::add(&work.compaction_read_bytes, read);
        Work::add(&work.compaction_written_bytes, bytes);
        Work::add(&work.compaction_micros, micros);
        let Some(span) = state.compactions().remove(&job) else {
            return; // it began before anybody listened
        };
        span.record("output_files", files);
        span.record("output_bytes", bytes);
        match failure {
            None => tracing::debug!(parent: &span, "compacted"),
            Some(failure) => {
                tracing::warn!(parent: &span, error = %error::from_message("compact", "a table", failure), "compaction failed");
            }
        }
    });
}

unsafe extern "C" fn flushed(
    state: *mut c_void,
    _: *mut ffi::rocksdb_t,
    info: *const ffi::rocksdb_flushjobinfo_t,
) {
    guarded(|| {
        // SAFETY: `state` lives as long as the listener, and `info` as long as this call.
        let (state, table, file) = unsafe {
            (
                &*state.cast::<Listener>(),
                name(|len| ffi::rocksdb_flushjobinfo_cf_name(info, len)),
                ffi::rocksdb_flushjobinfo_file_number(info),
            )
        };
        Work::add(&state.work.flushes, 1);
        tracing::debug!(table, file, "flushed");
    });
}

unsafe extern "C" fn background_error(
    _: *mut c_void,
    reason: u32,
    status: *mut ffi::rocksdb_status_ptr_t,
) {
    guarded(|| {
        // SAFETY: `status` lives as long as this call; the message is a string or null.
        let message = unsafe {
            let mut message = ptr::null_mut();
            ffi::rocksdb_status_ptr_get_error(status, &mut message);
            take_message(message)
        };
        let Some(message) = message else {
            return;
        };
        if message.starts_with(SHUTDOWN) {
            return; // the backend is being closed, and what was cut short is of no more use
        }
        let operation = REASONS
            .get(reason as usize)
            .copied()
            .unwrap_or("work behind");
        let forgiven = reason == ASYNC_FILE_OPEN && !message.starts_with("Corruption");
        let error = error::from_message(operation, "the database", message);
        if forgiven {
            // SAFETY: as above. RocksDB then takes it that nothing happened, unless the error is temporary.
            unsafe { ffi::rocksdb_reset_status(status) };
            tracing::warn!(%error, "a table file did not open yet; its first reader tries again, writes may pause");
        } else {
            tracing::error!(%error, "RocksDB's background work failed");
        }
    });
}

unsafe extern "C" fn ignore_flush(
    _: *mut c_void,
    _: *mut ffi::rocksdb_t,
    _: *const ffi::rocksdb_flushjobinfo_t,
) {
}

unsafe extern "C" fn ignore_subcompaction(
    _: *mut c_void,
    _: *const ffi::rocksdb_subcompactionjobinfo_t,
) {
}

unsafe extern "C" fn ignore_ingestion(
    _: *mut c_void,
    _: *mut ffi::rocksdb_t,
    _: *const ffi::rocksdb_externalfileingestioninfo_t,
) {
}

unsafe extern "C" fn ignore_stall(_: *mut c_void, _: *const ffi::rocksdb_writestallinfo_t) {}

unsafe extern "C" fn ignore_memtable(_: *mut c_void, _: *const ffi::rocksdb_memtableinfo_t) {}

impl Listener {
    fn compactions(&self) -> std::sync::MutexGuard<'_, HashMap<c_int, Span>> {
        self.compactions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A column family's name, from a function that gives its bytes and writes their number.
unsafe fn name(get: impl FnOnce(*mut usize) -> *const c_char) -> String {
    let mut len = 0;
    let bytes = get(&mut len);
    if bytes.is_null() {
        return String::new();
    }
    // SAFETY: the caller's function gave `len` bytes that live as long as the callback.
    let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// The message of a failure, which is ours to free; `None` for success.
unsafe fn take_message(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: a C string from RocksDB's `strdup`, which nobody else holds.
    let text = unsafe { CStr::from_ptr(message) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: as above, and used for the last time.
    unsafe { ffi::rocksdb_free(message.cast()) };
    Some(text)
}
