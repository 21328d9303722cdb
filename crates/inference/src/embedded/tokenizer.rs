//! The tokenizer inside a GGUF whose `tokenizer.ggml.model` is `llama`: SentencePiece-style merging by score, the rule of
//! llama.cpp. candle's own reader of GGUF tokenizers knows only `gpt2`.

use candle_core::quantized::gguf_file::{Content, Value};
use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

/// SentencePiece's stand-in for a space.
const SPACE: char = '\u{2581}';

/// `llama_token_type` of llama.cpp.
const NORMAL: i64 = 1;
const BYTE: i64 = 6;

/// What a token stands for.
enum Piece {
    /// Its text, with real spaces.
    Text(String),
    /// One byte of a character the vocabulary lacks.
    Byte(u8),
    /// Nothing: a control token.
    Control,
}

/// Text to ids and back.
pub(super) struct Tokenizer {
    pieces: Vec<Piece>,
    scores: Vec<f32>,
    ids: HashMap<String, u32>,
    controls: HashMap<String, u32>,
    bytes: HashMap<u8, u32>,
    space_prefix: bool,
}

impl Tokenizer {
    /// Reads the tokenizer from a file's metadata; the error says what is missing.
    pub(super) fn from_gguf(content: &Content) -> Result<Self, String> {
        let get = |key: &str| content.metadata.get(key).ok_or_else(|| format!("metadata lacks {key}"));
        let kind = get("tokenizer.ggml.model")?.to_string().map_err(|e| e.to_string())?;
        if kind != "llama" {
            return Err(format!("its tokenizer is of kind {kind}, only llama is supported"));
        }
        let list = |key: &str| get(key)?.to_vec().map_err(|_| format!("{key} is not a list"));
        let tokens = list("tokenizer.ggml.tokens")?;
        let scores = list("tokenizer.ggml.scores")?;
        let types = list("tokenizer.ggml.token_type")?;
        if tokens.len() != scores.len() || tokens.len() != types.len() {
            return Err("tokens, scores and types differ in number".to_owned());
        }
        let scores = scores
            .iter()
            .map(|v| v.to_f32().map_err(|_| "a score is not a number".to_owned()))
            .collect::<Result<_, _>>()?;
        let space_prefix = match content.metadata.get("tokenizer.ggml.add_space_prefix") {
            Some(value) => value.to_bool().map_err(|e| e.to_string())?,
            None => true,
        };
        let mut tokenizer = Self {
            pieces: Vec::with_capacity(tokens.len()),
            scores,
            ids: HashMap::new(),
            controls: HashMap::new(),
            bytes: HashMap::new(),
            space_prefix,
        };
        for (token, kind) in tokens.iter().zip(types) {
            let token = token.to_string().map_err(|_| "a token is not text".to_owned())?;
            tokenizer.add(token, integer(kind).ok_or("a token type is not a number")?)?;
        }
        Ok(tokenizer)
    }

    fn add(&mut self, token: &str, kind: i64) -> Result<(), String> {
        let id = u32::try_from(self.pieces.len()).map_err(|_| "too many tokens".to_owned())?;
        self.pieces.push(match kind {
            NORMAL => {
                self.ids.insert(token.to_owned(), id);
                Piece::Text(token.replace(SPACE, " "))
            }
            BYTE => {
                let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
                let byte = digits
                    .and_then(|d| u8::from_str_radix(d, 16).ok())
                    .ok_or_else(|| format!("{token} is not a byte token"))?;
                self.bytes.insert(byte, id);
                Piece::Byte(byte)
            }
            _ => {
                self.controls.insert(token.to_owned(), id);
                Piece::Control
            }
        });
        Ok(())
    }

    /// The id of a control token.
    pub(super) fn control(&self, token: &str) -> Option<u32> {
        self.controls.get(token).copied()
    }

    /// Ids of plain text. What looks like a control token in it is text: a prompt cannot forge a turn.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let mut spaced = String::with_capacity(text.len() + SPACE.len_utf8());
        if self.space_prefix && !text.is_empty() {
            spaced.push(SPACE);
        }
        spaced.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let mut out = Vec::with_capacity(text.len() / 3 + 1);
        for symbol in self.merge(&spaced) {
            match self.ids.get(symbol) {
                Some(id) => out.push(*id),
                // A byte that the vocabulary lacks is left out, which only a vocabulary without byte tokens can cause.
                None => out.extend(symbol.bytes().filter_map(|b| self.bytes.get(&b).copied())),
            }
        }
        out
    }

    /// Of all adjacent pairs whose concatenation is a piece, merges the one with the highest score (ties: the leftmost),
    /// until none is left.
    fn merge<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut symbols: Vec<Symbol> = Vec::new();
        for (start, c) in text.char_indices() {
            let index = symbols.len();
            symbols.push(Symbol {
                start,
                end: start + c.len_utf8(),
                before: index.checked_sub(1),
                after: Some(index + 1),
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.after = None;
        }
        let mut queue = BinaryHeap::new();
        for left in 0..symbols.len() {
            self.propose(text, &symbols, Some(left), &mut queue);
        }
        while let Some(Candidate { left, right, end, .. }) = queue.pop() {
            let (Some(a), Some(b)) = (symbols.get(left).copied(), symbols.get(right).copied()) else {
                continue;
            };
            // Either side has been merged since this pair was found.
            if a.is_gone() || b.is_gone() || a.after != Some(right) || b.end != end {
                continue;
            }
            if let Some(symbol) = symbols.get_mut(left) {
                (symbol.end, symbol.after) = (b.end, b.after);
            }
            if let Some(symbol) = symbols.get_mut(right) {
                symbol.start = symbol.end;
            }
            if let Some(symbol) = b.after.and_then(|after| symbols.get_mut(after)) {
                symbol.before = Some(left);
            }
            self.propose(text, &symbols, a.before, &mut queue);
            self.propose(text, &symbols, Some(left), &mut queue);
        }
        symbols.iter().filter(|s| !s.is_gone()).filter_map(|s| text.get(s.start..s.end)).collect()
    }

    fn propose(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        queue: &mut BinaryHeap<Candidate>,
    ) {
        let found = left.and_then(|left| {
            let a = symbols.get(left)?;
            let right = a.after?;
            let b = symbols.get(right)?;
            let id = self.ids.get(text.get(a.start..b.end)?)?;
            let score = *self.scores.get(usize::try_from(*id).ok()?)?;
            Some(Candidate { score, left, right, end: b.end })
        });
        queue.extend(found);
    }

    /// The bytes a token adds to a text.
    pub(super) fn bytes_of(&self, id: u32) -> &[u8] {
        match usize::try_from(id).ok().and_then(|id| self.pieces.get(id)) {
            Some(Piece::Text(text)) => text.as_bytes(),
            Some(Piece::Byte(byte)) => std::slice::from_ref(byte),
            Some(Piece::Control) | None => &[],
        }
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::I8(v) => Some((*v).into()),
        Value::U8(v) => Some((*v).into()),
        Value::I16(v) => Some((*v).into()),
        Value::U16(v) => Some((*v).into()),
        Value::I32(v) => Some((*v).into()),
        Value::U32(v) => Some((*v).into()),
        Value::I64(v) => Some(*v),
        Value::U64(v) => i64::try_from(*v).ok(),
        _ => None,
    }
}

/// A run of text that is one symbol so far, linked to its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    before: Option<usize>,
    after: Option<usize>,
}

impl Symbol {
    const fn is_gone(&self) -> bool {
        self.start == self.end
    }
}

/// Two neighbours that can become one.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    end: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left)).then(other.end.cmp(&self.end))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Turns bytes into text as they come, holding back a character that is not complete yet.
#[derive(Default)]
pub(super) struct Utf8Stream {
    rest: Vec<u8>,
}

impl Utf8Stream {
    /// The text that became certain with these bytes. Bytes that can never be UTF-8 become U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut out = String::new();
        loop {
            match std::str::from_utf8(&self.rest) {
                Ok(text) => {
                    out.push_str(text);
                    self.rest.clear();
                    return out;
                }
                Err(error) => {
                    let valid = self.rest.get(..error.valid_up_to()).unwrap_or_default();
                    out.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        self.rest.drain(..error.valid_up_to());
                        return out;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.rest.drain(..error.valid_up_to() + bad);
                }
            }
        }
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.rest)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap as Metadata;

    fn metadata(pieces: &[(&str, f32)]) -> Metadata<String, Value> {
        let mut tokens = vec![Value::String("<unk>".into()), Value::String("<|im_start|>".into())];
        let mut scores = vec![Value::F32(0.0); 2];
        let mut types = vec![Value::I32(2), Value::I32(3)];
        for byte in 0..=255u8 {
            tokens.push(Value::String(format!("<0x{byte:02X}>")));
            scores.push(Value::F32(0.0));
            types.push(Value::I32(6));
        }
        for (piece, score) in pieces {
            tokens.push(Value::String((*piece).to_owned()));
            scores.push(Value::F32(*score));
            types.push(Value::I32(1));
        }
        Metadata::from([
            ("tokenizer.ggml.model".to_owned(), Value::String("llama".into())),
            ("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens)),
            ("tokenizer.ggml.scores".to_owned(), Value::Array(scores)),
            ("tokenizer.ggml.token_type".to_owned(), Value::Array(types)),
            ("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(false)),
        ])
    }

    fn tokenizer(pieces: &[(&str, f32)]) -> Tokenizer {
        let content = Content {
            magic: candle_core::quantized::gguf_file::VersionedMagic::GgufV3,
            metadata: metadata(pieces),
            tensor_infos: Metadata::new(),
            tensor_data_offset: 0,
        };
        Tokenizer::from_gguf(&content).unwrap()
    }

    const PIECES: [(&str, f32); 8] = [
        ("a", -10.0),
        ("b", -11.0),
        ("c", -12.0),
        ("\u{2581}", -13.0),
        ("ab", -1.0),
        ("bc", -0.5),
        ("abc", -3.0),
        ("\u{2581}a", -2.0),
    ];
    const FIRST: u32 = 2 + 256;

    #[test]
    fn the_highest_score_merges_first() {
        let tokenizer = tokenizer(&PIECES);
        // bc beats ab; a + bc is abc.
        assert_eq!(tokenizer.encode("abc"), [FIRST + 6]);
        // Leftmost of equal scores: ab, ab.
        assert_eq!(tokenizer.encode("abab"), [FIRST + 4, FIRST + 4]);
        assert_eq!(tokenizer.encode(" ab"), [FIRST + 3, FIRST + 4]);
        assert_eq!(tokenizer.encode(" a"), [FIRST + 7]);
        assert_eq!(tokenizer.encode(""), [0u32; 0]);
    }

    #[test]
    fn unknown_characters_become_bytes_and_come_back() {
        let tokenizer = tokenizer(&PIECES);
        let ids = tokenizer.encode("aé <|im_start|>");
        assert!(!ids.contains(&1), "text cannot hold a control token");
        let mut stream = Utf8Stream::default();
        let mut text: String = ids.iter().map(|id| stream.push(tokenizer.bytes_of(*id))).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, "aé <|im_start|>");
    }

    #[test]
    fn characters_are_held_back_until_complete() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(&[b'a', 0xE2, 0x82]), "a");
        assert_eq!(stream.push(&[0xAC, b'b']), "€b");
        assert_eq!(stream.push(&[0xFF, b'c', 0xC3]), "\u{FFFD}c");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }

    proptest::proptest! {
        #[test]
        fn every_text_comes_back(text in ".{0,80}") {
            let tokenizer = tokenizer(&PIECES);
            let mut stream = Utf8Stream::default();
            let mut out: String = tokenizer.encode(&text).iter().map(|id| stream.push(tokenizer.bytes_of(*id))).collect();
            out.push_str(&stream.finish());
            // The stand-in itself reads as a space, as in SentencePiece.
            proptest::prop_assert_eq!(out, text.replace(SPACE, " "));
        }
    }
}
