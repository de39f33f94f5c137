//! The trampolines of the Env itself: opening, names, directories, locks. [`abi`](crate::abi) says what makes them safe.

use std::{
    ffi::c_void,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use lazurite_env::{Env, Error, ErrorKind, FileKind, FileLock, Result};

use crate::{
    abi::{Sink, Slice, Stat, Status, borrow, caught, free, give, report},
    files::{RandomHandle, SequentialHandle, WritableHandle},
};

/// `lz_env`: one count of the user's Arc.
pub(crate) struct EnvHandle(pub(crate) Arc<dyn Env>);

/// `lz_lock`: held until it is freed.
pub(crate) struct LockHandle(
    #[expect(dead_code, reason = "dropping it is the unlock")] Box<dyn FileLock>,
);

/// One call of the Env on one path.
///
/// # Safety
/// `env` and `status` are null or valid, `path` is valid for the call.
unsafe fn call<T>(
    env: *const EnvHandle,
    path: Slice,
    status: *mut Status,
    operation: &'static str,
    body: impl FnOnce(&dyn Env, &Path) -> Result<T>,
) -> Option<T> {
    // SAFETY: the caller's promise.
    unsafe {
        let path = path.path();
        report(status, operation, path, || body(&*borrow(env)?.0, path))
    }
}

/// Gives `bytes` to C++.
///
/// # Safety
/// `context` is what `sink` takes.
unsafe fn push(sink: Sink, context: *mut c_void, bytes: &[u8], flag: u8) -> bool {
    // SAFETY: the caller's promise; C++'s sinks do not throw.
    unsafe { sink(context, bytes.as_ptr().cast(), bytes.len(), flag) != 0 }
}

/// Gives a native path to C++; 0 where there is none.
///
/// # Safety
/// `context` is what `sink` takes.
pub(crate) unsafe fn push_native(
    sink: Sink,
    context: *mut c_void,
    path: &Path,
    ask: impl FnOnce() -> Result<Option<PathBuf>>,
) -> u8 {
    // A panic here has nowhere to go: the caller then asks Rust for the file, which will tell.
    match caught("native path", path, ask) {
        Ok(Some(native)) => {
            // SAFETY: the caller's promise.
            unsafe { push(sink, context, native.as_os_str().as_encoded_bytes(), 0) }.into()
        }
        _ => 0,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_release(env: *mut EnvHandle) {
    // SAFETY: C++ releases it once.
    unsafe { free(env) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_native_path(
    env: *const EnvHandle,
    path: Slice,
    context: *mut c_void,
    sink: Sink,
) -> u8 {
    // SAFETY: handle, path and sink are valid for the call.
    unsafe {
        let path = path.path();
        push_native(sink, context, path, || Ok(borrow(env)?.0.native_path(path)))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_open_sequential(
    env: *const EnvHandle,
    path: Slice,
    status: *mut Status,
) -> *mut SequentialHandle {
    // SAFETY: handle, path and status are valid for the call.
    give(unsafe {
        call(env, path, status, "open", |env, path| {
            Ok(SequentialHandle {
                file: Mutex::new(env.open_sequential(path)?),
                path: path.into(),
            })
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_open_random(
    env: *const EnvHandle,
    path: Slice,
    status: *mut Status,
) -> *mut RandomHandle {
    // SAFETY: handle, path and status are valid for the call.
    give(unsafe {
        call(env, path, status, "open", |env, path| {
            Ok(RandomHandle {
                file: env.open_random(path)?,
                path: path.into(),
            })
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_create(
    env: *const EnvHandle,
    path: Slice,
    status: *mut Status,
) -> *mut WritableHandle {
    // SAFETY: handle, path and status are valid for the call.
    give(unsafe {
        call(env, path, status, "create", |env, path| {
            Ok(WritableHandle {
                file: Mutex::new(env.create(path)?),
                path: path.into(),
            })
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_open_append(
    env: *const EnvHandle,
    path: Slice,
    status: *mut Status,
) -> *mut WritableHandle {
    // SAFETY: handle, path and status are valid for the call.
    give(unsafe {
        call(env, path, status, "open to append", |env, path| {
            Ok(WritableHandle {
                file: Mutex::new(env.open_append(path)?),
                path: path.into(),
            })
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_rename(
    env: *const EnvHandle,
    from: Slice,
    to: Slice,
    status: *mut Status,
) {
    // SAFETY: handle, paths and status are valid for the call.
    unsafe {
        call(env, from, status, "rename", |env, from| {
            env.rename(from, to.path())
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_link(
    env: *const EnvHandle,
    from: Slice,
    to: Slice,
    status: *mut Status,
) {
    // SAFETY: handle, paths and status are valid for the call.
    unsafe {
        call(env, from, status, "link", |env, from| {
            env.link(from, to.path())
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_delete(env: *const EnvHandle, path: Slice, status: *mut Status) {
    // SAFETY: handle, path and status are valid for the call.
    unsafe {
        call(env, path, status, "delete", |env, path| env.delete(path));
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_create_dir(env: *const EnvHandle, path: Slice, status: *mut Status) {
    // SAFETY: handle, path and status are valid for the call.
    unsafe {
        call(env, path, status, "create directory", |env, path| {
            env.create_dir(path)
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_delete_dir(env: *const EnvHandle, path: Slice, status: *mut Status) {
    // SAFETY: handle, path and status are valid for the call.
    unsafe {
        call(env, path, status, "delete directory", |env, path| {
            env.delete_dir(path)
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_list(
    env: *const EnvHandle,
    path: Slice,
    context: *mut c_void,
    sink: Sink,
    status: *mut Status,
) {
    // SAFETY: handle, path, sink and status are valid for the call.
    unsafe {
        call(env, path, status, "list", |env, path| {
            for entry in env.list(path)? {
                let is_dir = (entry.kind == FileKind::Directory).into();
                if !push(sink, context, entry.name.as_bytes(), is_dir) {
                    return Err(Error::new(ErrorKind::Io, "list", path, "out of memory"));
                }
            }
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_stat(
    env: *const EnvHandle,
    path: Slice,
    out: *mut Stat,
    status: *mut Status,
) {
    // SAFETY: handle, path and status are valid for the call.
    let stat = unsafe { call(env, path, status, "stat", |env, path| env.stat(path)) };
    // A time before 1970 is no time that RocksDB could name.
    if let Some(stat) = stat
        && !out.is_null()
    {
        let modified = stat.modified.duration_since(SystemTime::UNIX_EPOCH);
        // SAFETY: `out` is not null, so it is valid for writing.
        unsafe {
            out.write(Stat {
                len: stat.len,
                links: stat.links,
                modified_s: modified.map_or(0, |time| time.as_secs()),
                is_dir: (stat.kind == FileKind::Directory).into(),
            });
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_lock(
    env: *const EnvHandle,
    path: Slice,
    status: *mut Status,
) -> *mut LockHandle {
    // SAFETY: handle, path and status are valid for the call.
    give(unsafe {
        call(env, path, status, "lock", |env, path| {
            env.lock(path).map(LockHandle)
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_lock_free(lock: *mut LockHandle) {
    // SAFETY: C++ frees it once.
    unsafe { free(lock) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_sync_dir(env: *const EnvHandle, path: Slice, status: *mut Status) {
    // SAFETY: handle, path and status are valid for the call.
    unsafe {
        call(env, path, status, "sync directory", |env, path| {
            env.sync_dir(path)
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_env_free_space(
    env: *const EnvHandle,
    path: Slice,
    status: *mut Status,
) -> u64 {
    // SAFETY: handle, path and status are valid for the call.
    unsafe {
        call(env, path, status, "free space", |env, path| {
            env.free_space(path)
        })
        .unwrap_or(0)
    }
}
