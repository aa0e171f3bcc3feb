//! Tokenizers and chat templates behind the C ABI of quire_text.h.
//!
//! `boundary` holds everything unsafe that is common; `tokenizer_abi` and `template_abi` are
//! the exported functions; the other modules are ordinary safe Rust.

mod boundary;
mod byte_level;
mod chat_template;
mod cutter;
mod python;
mod template_abi;
mod text_tokenizer;
mod token_bytes;
mod tokenizer_abi;
