//! Cuts long texts into pieces that give the same tokens as the whole.
//!
//! The library needs about 130 bytes of memory for each byte of text, so a book at once would
//! need more than a small model. Byte-level tokenizers whose word pattern is known can be cut
//! between an ASCII letter and a space that another ASCII letter follows: every pattern below
//! ends a match there, looking neither behind nor past the space, and no merge crosses a
//! match. Other tokenizers (Llama 2's knows no words) get the text whole.

use serde_json::Value;
use tokenizers::AddedToken;

/// Pieces are a little longer than this: the next good place ends them.
const PIECE_BYTES: usize = 64 << 10;

/// The word patterns of Llama 3 and of Qwen 2 to 3. GPT-2's is built into ByteLevel.
const WORD_PATTERNS: [&str; 2] = [
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];

pub struct Cutter {
    safe: bool,
}

impl Cutter {
    /// `normalizer` and `pre_tokenizer` are those fields of tokenizer.json.
    pub fn new<'a>(
        normalizer: &Value,
        pre_tokenizer: &Value,
        mut added: impl Iterator<Item = &'a AddedToken>,
    ) -> Self {
        let stays_inside = |token: &AddedToken| {
            !(token.lstrip || token.rstrip || token.single_word || token.content.contains(' '))
        };
        Cutter {
            safe: is_local(normalizer) && splits_words(pre_tokenizer) && added.all(stays_inside),
        }
    }

    /// The next piece's size; all of `text` if there is no place to cut.
    pub fn piece_size(&self, text: &str) -> usize {
        if !self.safe || text.len() <= PIECE_BYTES {
            return text.len();
        }
        let place = text.as_bytes()[PIECE_BYTES..]
            .windows(3)
            .position(|w| w[0].is_ascii_alphabetic() && w[1] == b' ' && w[2].is_ascii_alphabetic());
        place.map_or(text.len(), |at| PIECE_BYTES + at + 1)
    }
}

/// Whether a normalizer leaves both sides of a cut as they would be without it.
fn is_local(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        None => normalizer.is_null(),
        Some("NFC") => true,
        Some("Sequence") => {
            normalizer["normalizers"].as_array().is_some_and(|parts| parts.iter().all(is_local))
        }
        Some(_) => false,
    }
}

fn splits_words(pre_tokenizer: &Value) -> bool {
    let alone = [pre_tokenizer.clone()];
    let parts = match pre_tokenizer["pretokenizers"].as_array() {
        Some(parts) => parts.as_slice(),
        None => &alone,
    };
    // ByteLevel hides spaces from whatever would come after it.
    let Some((last, before)) = parts.split_last() else { return false };
    let ends_byte_level = last["type"] == "ByteLevel" && last["add_prefix_space"] == false;
    ends_byte_level
        && before.iter().all(|part| part["type"] == "Digits" || is_word_split(part))
        && (last["use_regex"] == true || before.iter().any(is_word_split))
}

fn is_word_split(part: &Value) -> bool {
    let pattern = part["pattern"]["Regex"].as_str().unwrap_or_default();
    part["type"] == "Split"
        && part["behavior"] == "Isolated"
        && part["invert"] == false
        && WORD_PATTERNS.contains(&pattern)
}
