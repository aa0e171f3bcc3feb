//! The tokenizer's part of quire_text.h.

use crate::boundary::{borrow, guard, leak, reclaim, Bytes, Slice};
use crate::text_tokenizer::{EncodeOptions, TextTokenizer};

/// QuireEncoding.
#[repr(C)]
pub struct Encoding {
    ids: *mut u32,
    spans: *mut u64,
    size: usize,
}

/// QuireEncodeOptions.
#[repr(C)]
pub struct Options {
    add_special: bool,
    parse_special: bool,
    with_spans: bool,
}

/// QuireVocabulary.
#[repr(C)]
pub struct VocabularyView {
    bytes: *const u8,
    ends: *const u32,
    special: *const u8,
    size: usize,
}

/// # Safety
/// As quire_text.h says.
#[no_mangle]
pub unsafe extern "C" fn quire_tokenizer_parse(
    json: Slice,
    out: *mut *mut TextTokenizer,
    error: *mut Bytes,
) -> i32 {
    guard(out, error, || Ok(Box::into_raw(Box::new(TextTokenizer::parse(json.bytes())?))))
}

/// # Safety
/// `tokenizer` came from `quire_tokenizer_parse` and is in use nowhere.
#[no_mangle]
pub unsafe extern "C" fn quire_tokenizer_free(tokenizer: *mut TextTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// As quire_text.h says.
#[no_mangle]
pub unsafe extern "C" fn quire_tokenizer_encode(
    tokenizer: *const TextTokenizer,
    text: Slice,
    options: Options,
    out: *mut Encoding,
    error: *mut Bytes,
) -> i32 {
    guard(out, error, || {
        let options = EncodeOptions {
            add_special: options.add_special,
            parse_special: options.parse_special,
            with_spans: options.with_spans,
        };
        let encoded = (*tokenizer).encode(text.text("text")?, options)?;
        let size = encoded.ids.len();
        let spans =
            if options.with_spans { leak_spans(&encoded.spans) } else { std::ptr::null_mut() };
        Ok(Encoding { ids: leak(encoded.ids), spans, size })
    })
}

fn leak_spans(spans: &[(usize, usize)]) -> *mut u64 {
    leak(spans.iter().flat_map(|&(begin, end)| [begin as u64, end as u64]).collect())
}

/// # Safety
/// `encoding` came from `quire_tokenizer_encode` and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn quire_encoding_free(encoding: Encoding) {
    reclaim(encoding.ids, encoding.size);
    reclaim(encoding.spans, encoding.size * 2);
}

/// # Safety
/// As quire_text.h says.
#[no_mangle]
pub unsafe extern "C" fn quire_tokenizer_decode(
    tokenizer: *const TextTokenizer,
    ids: *const u32,
    size: usize,
    skip_special: bool,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(out, error, || Ok(Bytes::new((*tokenizer).decode(borrow(ids, size), skip_special)?)))
}

/// # Safety
/// As quire_text.h says.
#[no_mangle]
pub unsafe extern "C" fn quire_tokenizer_token_to_id(
    tokenizer: *const TextTokenizer,
    token: Slice,
) -> i64 {
    let token = std::str::from_utf8(token.bytes()).ok();
    token.and_then(|token| (*tokenizer).token_to_id(token)).map_or(-1, i64::from)
}

/// # Safety
/// As quire_text.h says.
#[no_mangle]
pub unsafe extern "C" fn quire_tokenizer_vocabulary(
    tokenizer: *const TextTokenizer,
) -> VocabularyView {
    let vocabulary = (*tokenizer).vocabulary();
    VocabularyView {
        bytes: vocabulary.bytes.as_ptr(),
        ends: vocabulary.ends.as_ptr(),
        special: vocabulary.special.as_ptr(),
        size: vocabulary.ends.len(),
    }
}
