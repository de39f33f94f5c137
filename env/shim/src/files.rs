//! The trampolines of open files. [`abi`](crate::abi) says what makes them safe.
//!
//! A count of bytes that a file reports is checked against the buffer before C++ hears of it: an Env of a user that
//! answers nonsense must not make RocksDB read past its own memory.

use std::{
    ffi::c_void,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use lazurite_env::{
    Error, ErrorKind, PendingRead, RandomFile, RangeRead, Result, SequentialFile, WritableFile,
};

use crate::{
    abi::{Hint, Range, Sink, Slice, Status, borrow, buffer, caught, free, give, report},
    env::push_native,
};

/// `lz_sequential`.
pub(crate) struct SequentialHandle {
    pub(crate) file: Mutex<Box<dyn SequentialFile>>,
    pub(crate) path: PathBuf,
}

/// `lz_random`.
pub(crate) struct RandomHandle {
    pub(crate) file: Box<dyn RandomFile>,
    pub(crate) path: PathBuf,
}

/// `lz_pending`.
pub(crate) struct PendingHandle {
    read: PendingRead,
    path: PathBuf,
}

/// `lz_writable`. The lock lets RocksDB sync a log from one thread while another appends.
pub(crate) struct WritableHandle {
    pub(crate) file: Mutex<Box<dyn WritableFile>>,
    pub(crate) path: PathBuf,
}

fn check(read: usize, asked: usize, path: &Path) -> Result<usize> {
    if read <= asked {
        return Ok(read);
    }
    Err(Error::new(
        ErrorKind::Corruption,
        "read",
        path,
        format!("the file gave {read} bytes where {asked} were asked for"),
    ))
}

fn lock<'a, T>(
    file: &'a Mutex<T>,
    operation: &'static str,
    path: &Path,
) -> Result<MutexGuard<'a, T>> {
    file.lock().map_err(|_| {
        let message = "an earlier call on this file panicked, and where it stands is not known";
        Error::new(ErrorKind::Panicked, operation, path, message)
    })
}

/// The path of a handle, for the text of an error; empty for a null handle.
///
/// # Safety
/// `handle` is null or valid for `'a`.
unsafe fn path_of<'a, T: 'a>(
    handle: *const T,
    path: impl FnOnce(&'a T) -> &'a PathBuf,
) -> &'a Path {
    // SAFETY: the caller's promise.
    unsafe { borrow(handle) }.map_or(Path::new(""), |handle| path(handle))
}

// ---- sequential ----------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_sequential_read(
    file: *const SequentialHandle,
    buf: *mut u8,
    len: usize,
    status: *mut Status,
) -> usize {
    // SAFETY: handle, buffer and status are valid for the call.
    unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, "read", path, || {
            let mut file = lock(&borrow(file)?.file, "read", path)?;
            check(file.read(buffer(buf, len)?)?, len, path)
        })
        .unwrap_or(0)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_sequential_skip(
    file: *const SequentialHandle,
    n: u64,
    status: *mut Status,
) {
    // SAFETY: handle and status are valid for the call.
    unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, "skip", path, || {
            lock(&borrow(file)?.file, "skip", path)?.skip(n)
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_sequential_free(file: *mut SequentialHandle) {
    // SAFETY: C++ frees it once.
    unsafe { free(file) }
}

// ---- random --------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_read(
    file: *const RandomHandle,
    offset: u64,
    buf: *mut u8,
    len: usize,
    hint: Hint,
    status: *mut Status,
) -> usize {
    // SAFETY: handle, buffer and status are valid for the call.
    unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, "read", path, || {
            let buf = buffer(buf, len)?;
            let read = borrow(file)?.file.read_at(offset, buf, hint.into())?;
            check(read, len, path)
        })
        .unwrap_or(0)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_read_many(
    file: *const RandomHandle,
    ranges: *mut Range,
    count: usize,
    hint: Hint,
    status: *mut Status,
) {
    // SAFETY: handle, status, the ranges and their buffers are valid for the call; the buffers do not overlap.
    unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, "read", path, || {
            let file = borrow(file)?;
            let ranges = if count == 0 {
                &mut []
            } else {
                borrow(ranges)?;
                std::slice::from_raw_parts_mut(ranges, count)
            };
            let mut reads = Vec::with_capacity(count);
            for range in ranges.iter() {
                reads.push(RangeRead {
                    offset: range.offset,
                    buf: buffer(range.buf, range.len)?,
                    result: Ok(0),
                });
            }
            file.file.read_many(&mut reads, hint.into());
            for (range, read) in ranges.iter_mut().zip(reads) {
                let result = read.result.and_then(|n| check(n, range.len, path));
                range.read = report(&mut range.status, "read", path, || result).unwrap_or(0);
            }
            Ok(())
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_start_read(
    file: *const RandomHandle,
    offset: u64,
    len: usize,
    hint: Hint,
    status: *mut Status,
) -> *mut PendingHandle {
    // SAFETY: handle and status are valid for the call.
    give(unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, "read", path, || {
            Ok(PendingHandle {
                read: borrow(file)?.file.start_read(offset, len, hint.into()),
                path: path.into(),
            })
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_pending_wait(
    pending: *mut PendingHandle,
    buf: *mut u8,
    len: usize,
    status: *mut Status,
) -> usize {
    // SAFETY: handle, buffer and status are valid for the call, and C++ gives the handle away with it.
    unsafe {
        let path = path_of(pending, |pending| &pending.path).to_owned();
        report(status, "read", &path, || {
            borrow(pending)?;
            let bytes = Box::from_raw(pending).read.wait()?;
            let read = check(bytes.len(), len, &path)?;
            buffer(buf, len)?[..read].copy_from_slice(&bytes);
            Ok(read)
        })
        .unwrap_or(0)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_pending_free(pending: *mut PendingHandle) {
    // SAFETY: C++ frees it once, and not after waiting for it.
    unsafe { free(pending) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_prefetch(
    file: *const RandomHandle,
    offset: u64,
    len: usize,
    hint: Hint,
    status: *mut Status,
) -> u8 {
    // SAFETY: handle and status are valid for the call.
    unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, "prefetch", path, || {
            borrow(file)?.file.prefetch(offset, len, hint.into())
        })
        .unwrap_or(false)
        .into()
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_len(file: *const RandomHandle, status: *mut Status) -> u64 {
    // SAFETY: handle and status are valid for the call.
    unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, "length", path, || borrow(file)?.file.len()).unwrap_or(0)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_unique_id(file: *const RandomHandle, out: *mut u8) -> u8 {
    // SAFETY: the handle is valid for the call, and `out` for writing 16 bytes.
    unsafe {
        let path = path_of(file, |file| &file.path);
        let id = caught("unique id", path, || Ok(borrow(file)?.file.unique_id()));
        match (id, buffer(out, 16)) {
            (Ok(Some(id)), Ok(out)) => {
                out.copy_from_slice(&id);
                1
            }
            _ => 0,
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_native_path(
    file: *const RandomHandle,
    context: *mut c_void,
    sink: Sink,
) -> u8 {
    // SAFETY: handle and sink are valid for the call.
    unsafe {
        let path = path_of(file, |file| &file.path);
        push_native(sink, context, path, || Ok(borrow(file)?.file.native_path()))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_random_free(file: *mut RandomHandle) {
    // SAFETY: C++ frees it once.
    unsafe { free(file) }
}

// ---- writable ------------------------------------------------------------------------------------------------------

/// One call on a writable file, under its lock.
///
/// # Safety
/// `file` and `status` are null or valid for the call.
unsafe fn write<T>(
    file: *const WritableHandle,
    status: *mut Status,
    operation: &'static str,
    body: impl FnOnce(&mut dyn WritableFile) -> Result<T>,
) -> Option<T> {
    // SAFETY: the caller's promise.
    unsafe {
        let path = path_of(file, |file| &file.path);
        report(status, operation, path, || {
            body(&mut **lock(&borrow(file)?.file, operation, path)?)
        })
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_writable_append(
    file: *const WritableHandle,
    data: Slice,
    status: *mut Status,
) {
    // SAFETY: handle, data and status are valid for the call.
    unsafe {
        write(file, status, "append", |file| file.append(data.bytes()));
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_writable_flush(file: *const WritableHandle, status: *mut Status) {
    // SAFETY: handle and status are valid for the call.
    unsafe {
        write(file, status, "flush", |file| file.flush());
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_writable_sync(file: *const WritableHandle, status: *mut Status) {
    // SAFETY: handle and status are valid for the call.
    unsafe {
        write(file, status, "sync", |file| file.sync());
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_writable_truncate(
    file: *const WritableHandle,
    len: u64,
    status: *mut Status,
) {
    // SAFETY: handle and status are valid for the call.
    unsafe {
        write(file, status, "truncate", |file| file.truncate(len));
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_writable_len(file: *const WritableHandle) -> u64 {
    // SAFETY: the handle is valid for the call; RocksDB leaves no way to report.
    unsafe { write(file, std::ptr::null_mut(), "length", |file| Ok(file.len())).unwrap_or(0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_writable_close(file: *const WritableHandle, status: *mut Status) {
    // SAFETY: handle and status are valid for the call.
    unsafe {
        write(file, status, "close", |file| file.close());
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn lz_writable_free(file: *mut WritableHandle) {
    // SAFETY: C++ frees it once.
    unsafe { free(file) }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use lazurite_env::ReadHint;

    use super::*;

    /// Says that it read more than it was asked for.
    #[derive(Debug)]
    struct Liar;

    impl RandomFile for Liar {
        fn read_at(&self, _: u64, buf: &mut [u8], _: ReadHint) -> Result<usize> {
            Ok(buf.len() + 1)
        }
        fn start_read(&self, _: u64, len: usize, _: ReadHint) -> PendingRead {
            PendingRead::ready(Ok(vec![1; len + 1].into()))
        }
        fn len(&self) -> Result<u64> {
            Ok(0)
        }
    }

    #[test]
    fn a_file_that_lies_about_its_length_is_not_believed() {
        let file = give(Some(RandomHandle {
            file: Box::new(Liar),
            path: "f".into(),
        }));
        let hint = Hint::default();
        let mut buf = [7; 4];
        let mut status = MaybeUninit::<Status>::uninit();
        // SAFETY: all pointers are valid, and each handle is freed once.
        unsafe {
            let ptr = status.as_mut_ptr();
            assert_eq!(lz_random_read(file, 0, buf.as_mut_ptr(), 4, hint, ptr), 0);
            assert_ne!(status.assume_init_ref().code, 0);
            let pending = lz_random_start_read(file, 0, 4, hint, ptr);
            assert_eq!(status.assume_init_ref().code, 0);
            assert_eq!(lz_pending_wait(pending, buf.as_mut_ptr(), 4, ptr), 0);
            assert_ne!(status.assume_init_ref().code, 0);
            lz_random_free(file);
        }
        assert_eq!(buf, [7; 4]);
    }
}
