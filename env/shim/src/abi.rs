//! The Rust mirror of `cpp/abi.h`, and what every trampoline does around its one call.
//!
//! # Safety
//! All functions named `lz_*` are called by the C++ side of this crate only. It promises what `cpp/abi.h` says: a handle
//! is one that Rust gave it and that it has not freed; a slice, a buffer and an out-pointer are valid for the call, and
//! nobody else writes to a buffer meanwhile. The `SAFETY` lines name the promise that they rest on. Null pointers are
//! refused with an error wherever an error can be told.
//!
//! # Panics
//! None crosses the ABI: a trampoline catches it and reports [`ErrorKind::Panicked`] with the text of the panic. The
//! Env is used again afterwards; one whose state a panic may break has to defend itself, as with a poisoned lock.

use std::{
    any::Any,
    ffi::{OsStr, c_char, c_void},
    mem::{offset_of, size_of},
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    ptr,
};

use lazurite_env::{Activity, BlockKind, Error, ErrorKind, ReadHint, Result};

use crate::cause;

const TEXT_MAX: usize = 480;

const OK: i32 = 0;
const IO: i32 = 1;
const NOT_FOUND: i32 = 2;
const ALREADY_EXISTS: i32 = 3;
const PERMISSION_DENIED: i32 = 4;
const LOCKED: i32 = 5;
const NO_SPACE: i32 = 6;
const CORRUPTION: i32 = 7;
const UNSUPPORTED: i32 = 8;

/// `lz_status`: how a call ended.
#[repr(C)]
pub(crate) struct Status {
    pub(crate) code: i32,
    temporary: u8,
    text_len: u32,
    token: u64,
    text: [u8; TEXT_MAX],
}

/// `lz_slice`: bytes borrowed for the time of a call.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    data: *const c_char,
    len: usize,
}

/// `lz_hint`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Hint {
    activity: u8,
    block: u8,
}

/// `lz_stat`.
#[repr(C)]
pub(crate) struct Stat {
    pub(crate) len: u64,
    pub(crate) links: u64,
    pub(crate) modified_s: u64,
    pub(crate) is_dir: u8,
}

/// `lz_range`.
#[repr(C)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) buf: *mut u8,
    pub(crate) len: usize,
    pub(crate) read: usize,
    pub(crate) status: Status,
}

/// `lz_sink`: gives bytes to C++; 0 where it could not take them.
pub(crate) type Sink = unsafe extern "C" fn(*mut c_void, *const c_char, usize, u8) -> u8;

// A wrong layout is a wrong pointer: these numbers are those of cpp/abi.h on every 64-bit target.
const _: () = assert!(size_of::<Status>() == 504 && offset_of!(Status, token) == 16);
const _: () = assert!(offset_of!(Status, text) == 24 && size_of::<Slice>() == 16);
const _: () = assert!(size_of::<Stat>() == 32 && size_of::<Hint>() == 2);
const _: () = assert!(size_of::<Range>() == 536 && offset_of!(Range, status) == 32);

impl Status {
    fn new(code: i32) -> Self {
        Status {
            code,
            temporary: 0,
            text_len: 0,
            token: 0,
            text: [0; TEXT_MAX],
        }
    }

    /// Tells C++ of `error` and keeps it for [`cause`](crate::cause()).
    fn of(error: Error) -> Self {
        let mut status = Status::new(code_of(error.kind()));
        status.temporary = error.is_temporary().into();
        let text = format!("{error:?}");
        let mut end = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        status.text[..end].copy_from_slice(&text.as_bytes()[..end]);
        status.text_len = end as u32;
        status.token = cause::keep(error);
        status
    }
}

fn code_of(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::AlreadyExists => ALREADY_EXISTS,
        ErrorKind::PermissionDenied => PERMISSION_DENIED,
        ErrorKind::Locked => LOCKED,
        ErrorKind::NoSpace => NO_SPACE,
        ErrorKind::Corruption => CORRUPTION,
        ErrorKind::Unsupported => UNSUPPORTED,
        _ => IO,
    }
}

/// The kind that a code of C++ stands for, where no typed error is known.
pub(crate) fn kind_of(code: i32) -> ErrorKind {
    match code {
        NOT_FOUND => ErrorKind::NotFound,
        CORRUPTION => ErrorKind::Corruption,
        UNSUPPORTED => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

impl Slice {
    /// The ABI's form of `path`, valid as long as it is.
    pub(crate) fn of(path: &Path) -> Self {
        Slice::of_bytes(path.as_os_str().as_bytes())
    }

    /// The ABI's form of `bytes`, valid as long as they are.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        Slice {
            data: bytes.as_ptr().cast(),
            len: bytes.len(),
        }
    }

    /// # Safety
    /// The slice is valid for `'a`.
    pub(crate) unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.data.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise; null was handled.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.len) }
    }

    /// # Safety
    /// The slice is valid for `'a`.
    pub(crate) unsafe fn path<'a>(self) -> &'a Path {
        // SAFETY: the caller's promise.
        Path::new(OsStr::from_bytes(unsafe { self.bytes() }))
    }
}

impl From<Hint> for ReadHint {
    fn from(hint: Hint) -> Self {
        ReadHint {
            activity: match hint.activity {
                1 => Activity::Get,
                2 => Activity::MultiGet,
                3 => Activity::Iterate,
                4 => Activity::Compaction,
                5 => Activity::Flush,
                6 => Activity::Open,
                7 => Activity::Verify,
                8 => Activity::Reread,
                _ => Activity::Unknown,
            },
            block: match hint.block {
                1 => BlockKind::Data,
                2 => BlockKind::Filter,
                3 => BlockKind::Index,
                4 => BlockKind::Metadata,
                _ => BlockKind::Unknown,
            },
        }
    }
}

/// Runs `body`; a panic becomes an error of `operation` on `path`.
pub(crate) fn caught<T>(
    operation: &'static str,
    path: &Path,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = panic_text(payload);
        Err(Error::new(ErrorKind::Panicked, operation, path, text))
    })
}

/// Runs `body` and reports to `status` how it ended.
///
/// # Safety
/// `status` is null or valid for writing.
pub(crate) unsafe fn report<T>(
    status: *mut Status,
    operation: &'static str,
    path: &Path,
    body: impl FnOnce() -> Result<T>,
) -> Option<T> {
    let result = caught(operation, path, body);
    if status.is_null() {
        return result.ok();
    }
    // SAFETY: the caller's promise. C++ gives memory that was never written: plain stores, no reference.
    let status = unsafe {
        ptr::addr_of_mut!((*status).code).write(OK);
        ptr::addr_of_mut!((*status).temporary).write(0);
        ptr::addr_of_mut!((*status).text_len).write(0);
        ptr::addr_of_mut!((*status).token).write(0);
        status
    };
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            // A source of the error may have any Display and any destructor, and both run here.
            let filled = catch_unwind(AssertUnwindSafe(|| Status::of(error)));
            let filled = filled.unwrap_or_else(|payload| {
                std::mem::forget(payload);
                Status::new(IO)
            });
            // SAFETY: as above.
            unsafe { status.write(filled) };
            None
        }
    }
}

/// Frees a handle; a panic of its destructor ends here.
///
/// # Safety
/// `handle` is null or came from [`give`] and is not used again.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: the caller's promise.
        let owned = unsafe { Box::from_raw(handle) };
        let _ = caught("close", Path::new(""), move || {
            drop(owned);
            Ok(())
        });
    }
}

/// Gives a handle to C++; null where there is none.
pub(crate) fn give<T>(handle: Option<T>) -> *mut T {
    handle.map_or(ptr::null_mut(), |handle| Box::into_raw(Box::new(handle)))
}

/// # Safety
/// `handle` is null or valid for `'a`.
pub(crate) unsafe fn borrow<'a, T>(handle: *const T) -> Result<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.ok_or_else(null)
}

/// The buffer that C++ gave.
///
/// # Safety
/// `buf` is null or valid for writing `len` bytes during `'a`, and nobody else uses it.
pub(crate) unsafe fn buffer<'a>(buf: *mut u8, len: usize) -> Result<&'a mut [u8]> {
    if len == 0 {
        return Ok(&mut []);
    }
    if buf.is_null() {
        return Err(null());
    }
    // SAFETY: the caller's promise. The memory is C++'s, so that to Rust each byte has some value.
    Ok(unsafe { std::slice::from_raw_parts_mut(buf, len) })
}

fn null() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "call",
        "",
        "a null pointer came over the C ABI",
    )
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        // Dropping a payload of an unknown type may panic again, this time through the ABI.
        std::mem::forget(payload);
        "a panic without a text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let message = "ä".repeat(TEXT_MAX);
        let status = Status::of(Error::new(ErrorKind::NoSpace, "write", "f", message));
        let text = &status.text[..status.text_len as usize];
        assert!(std::str::from_utf8(text).is_ok() && text.len() >= TEXT_MAX - 1);
        assert_eq!(status.code, NO_SPACE);
    }

    #[test]
    fn an_error_that_panics_when_it_is_told_is_still_an_error() {
        struct Rude;
        impl std::fmt::Display for Rude {
            fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                panic!("rude")
            }
        }
        impl std::fmt::Debug for Rude {
            fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                panic!("rude")
            }
        }
        impl std::error::Error for Rude {}
        let mut status = Status::new(OK);
        // SAFETY: `status` is valid.
        let got = unsafe {
            report(&mut status, "read", Path::new("f"), || {
                let error = Error::with_source(ErrorKind::Io, "read", "f", "", Rude);
                Err::<(), _>(error)
            })
        };
        assert!(got.is_none() && status.code == IO);
    }

    #[test]
    fn a_panic_of_any_type_becomes_an_error() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let text = |body: fn() -> Result<()>| {
            let error = caught("read", Path::new("f"), body).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Panicked);
            error.message().to_owned()
        };
        assert_eq!(text(|| panic!("plain")), "plain");
        assert_eq!(text(|| panic!("{}", 7)), "7");
        assert_eq!(
            text(|| std::panic::panic_any(Bomb)),
            "a panic without a text"
        );
    }

    #[test]
    fn a_null_handle_is_an_error() {
        let mut status = Status::new(OK);
        // SAFETY: `status` is valid; the handle is null, which is what is tested.
        let got = unsafe {
            report(&mut status, "read", Path::new("f"), || {
                borrow(ptr::null::<u8>()).copied()
            })
        };
        assert!(got.is_none() && status.code == IO);
    }
}
