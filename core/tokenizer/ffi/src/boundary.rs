//! What every exported function shares: borrowed and owned bytes, status codes, and the guard
//! that keeps panics on this side.

use std::panic::{catch_unwind, AssertUnwindSafe};

pub const OK: i32 = 0;
pub const INVALID: i32 = 1;
pub const INTERNAL: i32 = 2;

/// QuireTextSlice.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    data: *const u8,
    size: usize,
}

impl Slice {
    /// # Safety
    /// `data` points to `size` readable bytes that outlive the result, or `size` is 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        borrow(self.data, self.size)
    }

    /// The text, or a message that names `what` and the first bad byte.
    ///
    /// # Safety
    /// As for `bytes`.
    pub unsafe fn text<'a>(self, what: &str) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| format!("{what} is not valid UTF-8 at byte {}", e.valid_up_to()))
    }
}

/// # Safety
/// `data` points to `size` readable values that outlive the result, or `size` is 0.
pub unsafe fn borrow<'a, T>(data: *const T, size: usize) -> &'a [T] {
    // A null pointer is fine for C when there is nothing to read, but not for Rust.
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// QuireTextBytes.
#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

impl Bytes {
    pub fn new(text: String) -> Self {
        let size = text.len();
        Bytes { data: leak(text.into_bytes()), size }
    }
}

/// Gives a vector's memory away; `reclaim` takes it back.
pub fn leak<T>(values: Vec<T>) -> *mut T {
    Box::into_raw(values.into_boxed_slice()).cast()
}

/// # Safety
/// `data` came from `leak` of a vector with `size` values, or is null.
pub unsafe fn reclaim<T>(data: *mut T, size: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, size)));
    }
}

/// Runs `body`; a panic in it becomes INTERNAL, an error INVALID, with the message in `error`.
///
/// # Safety
/// `out` and `error` are writable.
pub unsafe fn guard<T>(
    out: *mut T,
    error: *mut Bytes,
    body: impl FnOnce() -> Result<T, String>,
) -> i32 {
    let (code, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => {
            out.write(value);
            return OK;
        }
        Ok(Err(message)) => (INVALID, message),
        Err(panic) => (INTERNAL, panic_message(panic.as_ref())),
    };
    error.write(Bytes::new(message));
    code
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the text library panicked: {}", text.unwrap_or("no message"))
}

/// # Safety
/// `bytes` came from this crate and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn quire_text_bytes_free(bytes: Bytes) {
    reclaim(bytes.data, bytes.size);
}

/// # Safety
/// `text` is readable.
#[no_mangle]
pub unsafe extern "C" fn quire_text_first_invalid_utf8(text: Slice) -> i64 {
    match std::str::from_utf8(text.bytes()) {
        Ok(_) => -1,
        Err(e) => e.valid_up_to() as i64,
    }
}
