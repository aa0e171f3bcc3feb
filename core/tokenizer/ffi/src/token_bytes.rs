//! The bytes that one token adds in the middle of a text.
//!
//! The library decodes whole sequences to valid UTF-8 only. Streaming needs the raw bytes of
//! single tokens, so the steps of the file's decoder are applied here to one token at a time,
//! as they act on a token that is neither the first nor the last.

use serde_json::Value;

use crate::byte_level;

enum Step {
    ByteLevel,
    ByteFallback,
    Replace(String, String),
    Strip { content: char, start: usize, stop: usize },
    SpaceBefore, // no decoder: the library joins tokens with spaces
}

/// A tokenizer's decoder, reduced to what it does to a token in the middle.
pub struct TokenDecoder {
    steps: Vec<Step>,
    fused: bool, // the steps so far have joined the tokens: edges are the text's edges
}

impl TokenDecoder {
    /// `decoder` is the "decoder" field of tokenizer.json (or null).
    pub fn new(decoder: &Value) -> Result<Self, String> {
        let mut result = TokenDecoder { steps: Vec::new(), fused: false };
        if decoder.is_null() {
            result.steps.push(Step::SpaceBefore);
        } else {
            result.add(decoder)?;
        }
        Ok(result)
    }

    pub fn is_byte_level(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::ByteLevel))
    }

    /// The bytes of `token`, a vocabulary entry.
    pub fn bytes(&self, token: &str) -> Vec<u8> {
        let mut text = token.to_string();
        for step in &self.steps {
            match step {
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        return vec![byte];
                    }
                }
                Step::ByteLevel => {
                    // A token with any other character is literal text, as in the library.
                    let bytes: Option<Vec<u8>> = text.chars().map(byte_level::byte_of).collect();
                    return bytes.unwrap_or_else(|| text.into_bytes());
                }
                Step::Replace(from, to) => text = text.replace(from.as_str(), to),
                Step::Strip { content, start, stop } => {
                    text = strip(&text, *content, *start, *stop).to_string();
                }
                Step::SpaceBefore => text.insert(0, ' '),
            }
        }
        text.into_bytes()
    }

    fn add(&mut self, decoder: &Value) -> Result<(), String> {
        let kind = decoder["type"].as_str().unwrap_or("without a type");
        match kind {
            "Sequence" => {
                for child in decoder["decoders"].as_array().into_iter().flatten() {
                    self.add(child)?;
                }
            }
            "ByteLevel" => self.steps.push(Step::ByteLevel),
            "ByteFallback" => self.steps.push(Step::ByteFallback),
            "Fuse" => self.fused = true,
            "Metaspace" => {
                let mark = string_field(decoder, "replacement")?;
                self.steps.push(Step::Replace(mark, " ".into()));
            }
            "Replace" => self.add_replace(decoder)?,
            "Strip" => self.add_strip(decoder)?,
            _ => return Err(format!("decoder {kind} is not supported")),
        }
        Ok(())
    }

    fn add_replace(&mut self, decoder: &Value) -> Result<(), String> {
        let pattern = decoder["pattern"]["String"]
            .as_str()
            .ok_or("decoder Replace with a regular expression is not supported")?;
        let content = string_field(decoder, "content")?;
        self.steps.push(Step::Replace(pattern.into(), content));
        Ok(())
    }

    fn add_strip(&mut self, decoder: &Value) -> Result<(), String> {
        if self.fused {
            return Ok(()); // acts on the text's edges only
        }
        let content = string_field(decoder, "content")?;
        let content = content.chars().next().ok_or("decoder Strip without content")?;
        let count = |name: &str| decoder[name].as_u64().unwrap_or(0) as usize;
        self.steps.push(Step::Strip { content, start: count("start"), stop: count("stop") });
        Ok(())
    }
}

fn string_field(decoder: &Value, name: &str) -> Result<String, String> {
    let value = decoder[name].as_str();
    value.map(str::to_string).ok_or_else(|| format!("decoder field {name} is not a string"))
}

/// "<0x0A>" -> 0x0A.
pub fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

fn strip(text: &str, content: char, start: usize, stop: usize) -> &str {
    let mut text = text;
    for _ in 0..start {
        text = text.strip_prefix(content).unwrap_or(text);
    }
    for _ in 0..stop {
        text = text.strip_suffix(content).unwrap_or(text);
    }
    text
}
