//! A tokenizer.json with what serving needs on top of the `tokenizers` library: documents
//! that cannot forge special tokens, byte spans that meet, and a table of raw token bytes.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::{Encoding, Model, Tokenizer};

use crate::byte_level;
use crate::cutter::Cutter;
use crate::token_bytes::TokenDecoder;

/// Ids above this are refused: the tables below are indexed by id.
const MAX_ID: u32 = (1 << 24) - 1;

/// `size` highest id + 1; ids that no token has are empty and not special.
#[derive(Default)]
pub struct Vocabulary {
    pub bytes: Vec<u8>,
    pub ends: Vec<u32>,
    pub special: Vec<u8>,
}

impl Vocabulary {
    fn token(&self, id: u32) -> &[u8] {
        let begin = if id == 0 { 0 } else { self.ends[id as usize - 1] as usize };
        &self.bytes[begin..self.ends[id as usize] as usize]
    }
}

#[derive(Clone, Copy)]
pub struct EncodeOptions {
    pub add_special: bool,
    pub parse_special: bool,
    pub with_spans: bool,
}

/// Parallel arrays; `spans` is empty unless asked for.
#[derive(Default)]
pub struct Encoded {
    pub ids: Vec<u32>,
    pub spans: Vec<(usize, usize)>,
    added: Vec<bool>, // by the post-processor: not from the text (until spans are tight)
}

impl Encoded {
    fn push(&mut self, id: u32, span: (usize, usize), added: bool) {
        self.ids.push(id);
        self.spans.push(span);
        self.added.push(added);
    }

    fn push_added(&mut self, ids: &[u32], at: usize, options: EncodeOptions) {
        self.ids.extend(ids);
        if options.with_spans {
            self.spans.extend(ids.iter().map(|_| (at, at)));
        }
    }

    /// Adds a piece of a text that begins at byte `offset` of it.
    fn append(&mut self, piece: Encoded, offset: usize) {
        self.ids.extend(piece.ids);
        self.spans.extend(piece.spans.iter().map(|span| (span.0 + offset, span.1 + offset)));
    }
}

pub struct TextTokenizer {
    // The library decides per tokenizer, not per call, whether special tokens in the text are
    // parsed, so there are two that differ in nothing else.
    parsing: Tokenizer,
    literal: Tokenizer,
    cutter: Cutter,
    byte_level: bool,
    unknown: Option<u32>,
    vocabulary: Vocabulary,
}

impl TextTokenizer {
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let mut parsing = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        // Leftovers of training that would cut or pad the text unasked.
        parsing.with_truncation(None).map_err(|e| e.to_string())?;
        parsing.with_padding(None);
        let decoder = TokenDecoder::new(&json_of(&parsing.get_decoder())?)?;
        let vocabulary = build_vocabulary(&parsing, &decoder)?;
        let cutter = Cutter::new(
            &json_of(&parsing.get_normalizer())?,
            &json_of(&parsing.get_pre_tokenizer())?,
            parsing.get_added_tokens_decoder().values(),
        );
        let mut literal = parsing.clone();
        literal.set_encode_special_tokens(true);
        Ok(TextTokenizer {
            byte_level: decoder.is_byte_level(),
            unknown: unknown_id(&parsing)?,
            cutter,
            parsing,
            literal,
            vocabulary,
        })
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token)
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, String> {
        self.parsing.decode(ids, skip_special).map_err(|e| e.to_string())
    }

    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Encoded, String> {
        let mut size = self.cutter.piece_size(text);
        if size == text.len() {
            return self.encode_piece(text, options);
        }
        let inner = EncodeOptions { add_special: false, ..options };
        let [before, after] =
            if options.add_special { self.added_around()? } else { [vec![], vec![]] };
        let mut result = Encoded::default();
        result.push_added(&before, 0, options);
        let mut begin = 0;
        while begin < text.len() {
            let piece = &text[begin..begin + size];
            result.append(self.encode_piece(piece, inner)?, begin);
            begin += size;
            size = self.cutter.piece_size(&text[begin..]);
        }
        result.push_added(&after, text.len(), options);
        Ok(result)
    }

    /// What the post-processor puts before and after a text.
    fn added_around(&self) -> Result<[Vec<u32>; 2], String> {
        let encoding = self.literal.encode_fast("a", true).map_err(|e| e.to_string())?;
        let (ids, added) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let before = added.iter().take_while(|&&added| added != 0).count();
        let after = added[before..].iter().rev().take_while(|&&added| added != 0).count();
        Ok([ids[..before].to_vec(), ids[ids.len() - after..].to_vec()])
    }

    fn encode_piece(&self, text: &str, options: EncodeOptions) -> Result<Encoded, String> {
        let tokenizer = if options.parse_special { &self.parsing } else { &self.literal };
        if !options.with_spans {
            // Tracking offsets costs time; here they would only serve to spell out a forged
            // special token, which is rare: see whether there is one first.
            let encoding = tokenizer.encode_fast(text, options.add_special);
            let encoding = encoding.map_err(|e| e.to_string())?;
            if options.parse_special || !self.has_special_from_text(&encoding) {
                return Ok(Encoded { ids: encoding.get_ids().to_vec(), ..Encoded::default() });
            }
        }
        let encoding = tokenizer.encode(text, options.add_special).map_err(|e| e.to_string())?;
        let mut encoded = self.collect(text, &encoding, options.parse_special);
        if options.with_spans {
            self.tighten(text, &mut encoded);
        } else {
            encoded.spans.clear();
        }
        Ok(encoded)
    }

    fn is_special(&self, id: u32) -> bool {
        self.vocabulary.special[id as usize] != 0
    }

    fn has_special_from_text(&self, encoding: &Encoding) -> bool {
        let added = encoding.get_special_tokens_mask();
        let ids = encoding.get_ids();
        ids.iter().zip(added).any(|(&id, &added)| added == 0 && self.is_special(id))
    }

    /// Ids and the library's spans. A special token that the model itself made out of ordinary
    /// text (merges can spell one, and `ignore_merges` takes whole words from the vocabulary)
    /// is spelt out by characters, unless specials are parsed. The unknown token is left alone
    /// where it stands for an unknown character.
    fn collect(&self, text: &str, encoding: &Encoding, parse_special: bool) -> Encoded {
        let mut result = Encoded::default();
        let added = encoding.get_special_tokens_mask();
        for (i, (&id, &span)) in encoding.get_ids().iter().zip(encoding.get_offsets()).enumerate() {
            let forged = !parse_special
                && added[i] == 0
                && self.is_special(id)
                && (Some(id) != self.unknown || self.spells(id, text, span));
            if forged {
                self.spell_out(id, span, &mut result);
            } else {
                result.push(id, span, added[i] != 0);
            }
        }
        result
    }

    fn spells(&self, id: u32, text: &str, (begin, end): (usize, usize)) -> bool {
        let token = self.parsing.id_to_token(id).unwrap_or_default();
        text.get(begin..end).is_some_and(|covered| covered.trim() == token.trim())
    }

    fn spell_out(&self, id: u32, span: (usize, usize), result: &mut Encoded) {
        let token = self.parsing.id_to_token(id).unwrap_or_default();
        for c in token.chars() {
            for id in self.spell_char(c) {
                result.push(id, span, false);
            }
        }
    }

    fn spell_char(&self, c: char) -> Vec<u32> {
        let ordinary = |token: &str| {
            let id = self.parsing.get_model().token_to_id(token)?;
            Some(id).filter(|&id| !self.is_special(id))
        };
        let mut buffer = [0; 4];
        let text: &str = c.encode_utf8(&mut buffer);
        if let Some(id) = ordinary(text).filter(|_| !self.byte_level) {
            return vec![id];
        }
        let byte_token = |byte: u8| {
            if self.byte_level {
                byte_level::char_of(byte).to_string()
            } else {
                format!("<0x{byte:02X}>")
            }
        };
        text.bytes().filter_map(|byte| ordinary(&byte_token(byte)).or(self.unknown)).collect()
    }

    /// Gives tokens the bytes that they really stand for, so that spans follow one another and
    /// leave nothing out. The library gives every token of a split character that whole
    /// character, the space that it puts before a text its first character, and a composed
    /// character (NFC) only the first of those it was composed from. Where tokens do not
    /// reproduce the text, its spans are kept, and may overlap.
    fn tighten(&self, text: &str, encoded: &mut Encoded) {
        let text = text.as_bytes();
        let mut cursor = 0;
        let mut last: Option<usize> = None; // the last token that came from the text
        for (i, &id) in encoded.ids.iter().enumerate() {
            let library = encoded.spans[i];
            if encoded.added[i] {
                encoded.spans[i] = (cursor, cursor);
                continue;
            }
            let token = self.vocabulary.token(id);
            let span = exact_span(text, token, [cursor, cursor.max(library.0)])
                .unwrap_or((library.0, library.1.max(cursor)));
            encoded.spans[i] = span;
            match last {
                Some(last) if span.0 > cursor => encoded.spans[last].1 = span.0,
                None => encoded.spans[i].0 = 0,
                _ => {}
            }
            cursor = span.1;
            last = Some(i);
        }
        if let Some(last) = last {
            encoded.spans[last].1 = text.len();
        }
    }
}

/// Where `token` is in the text: at one of two places, else there without its first space.
fn exact_span(text: &[u8], token: &[u8], places: [usize; 2]) -> Option<(usize, usize)> {
    if token.is_empty() {
        return None;
    }
    let find = |part: &[u8]| {
        let at = places.into_iter().find(|&at| text[at..].starts_with(part))?;
        Some((at, at + part.len()))
    };
    find(token).or_else(|| token.strip_prefix(b" ").and_then(find))
}

fn json_of(value: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(value).map_err(|e| e.to_string())
}

fn unknown_id(tokenizer: &Tokenizer) -> Result<Option<u32>, String> {
    // BPE names its unknown token, Unigram gives its index.
    let unknown = match tokenizer.get_model() {
        tokenizers::ModelWrapper::BPE(bpe) => bpe.get_unk_token().clone(),
        tokenizers::ModelWrapper::Unigram(unigram) => {
            let model = json_of(unigram)?;
            return Ok(model["unk_id"].as_u64().map(|id| id as u32));
        }
        tokenizers::ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        tokenizers::ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
    };
    Ok(unknown.and_then(|token| tokenizer.token_to_id(&token)))
}

fn build_vocabulary(tokenizer: &Tokenizer, decoder: &TokenDecoder) -> Result<Vocabulary, String> {
    let added = tokenizer.get_added_tokens_decoder();
    let mut tokens: HashMap<u32, String> = HashMap::new();
    for (token, id) in tokenizer.get_vocab(false) {
        tokens.insert(id, token);
    }
    for (&id, token) in &added {
        tokens.insert(id, token.content.clone());
    }
    let highest = tokens.keys().copied().max().ok_or("the vocabulary is empty")?;
    if highest > MAX_ID {
        return Err(format!("the vocabulary has id {highest}; the limit is {MAX_ID}"));
    }
    let mut vocabulary = Vocabulary::default();
    for id in 0..=highest {
        let special = added.get(&id).is_some_and(|token| token.special);
        if let Some(token) = tokens.get(&id).filter(|_| !special) {
            vocabulary.bytes.extend(decoder.bytes(token));
        }
        let end = u32::try_from(vocabulary.bytes.len());
        vocabulary.ends.push(end.map_err(|_| "the vocabulary's text is over 4 GiB")?);
        vocabulary.special.push(u8::from(special));
    }
    Ok(vocabulary)
}
