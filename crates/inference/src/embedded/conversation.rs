//! A conversation as tokens, cut to the model's context.

use super::tokenizer::Tokenizer;
use lcai_primitives::prompt::ChatInput;

const IM_START: &str = "<|im_start|>";
const IM_END: &str = "<|im_end|>";

/// The chat template. Templates are Jinja programs; like llama.cpp and Ollama we recognise the ones we know by their
/// text, and this is ChatML: `<|im_start|>role\ncontent<|im_end|>\n` for every turn.
pub(super) struct ChatMl {
    start: u32,
    end: u32,
}

/// One turn: who speaks, and what is said.
pub(super) struct Turn<'a> {
    role: &'a str,
    content: &'a str,
}

impl ChatMl {
    /// Checks that a template is ChatML and that the vocabulary has its marks.
    pub(super) fn new(template: Option<&str>, tokenizer: &Tokenizer) -> Result<Self, String> {
        if !template.is_some_and(|t| t.contains(IM_START) && t.contains(IM_END)) {
            return Err("its chat template is not ChatML, the only one supported".to_owned());
        }
        let control =
            |mark: &str| tokenizer.control(mark).ok_or_else(|| format!("its vocabulary lacks {mark}"));
        Ok(Self { start: control(IM_START)?, end: control(IM_END)? })
    }

    /// The token that ends a turn.
    pub(super) const fn end(&self) -> u32 {
        self.end
    }

    fn head(&self, tokenizer: &Tokenizer, role: &str) -> Vec<u32> {
        let mut ids = vec![self.start];
        ids.extend(tokenizer.encode(&format!("{role}\n")));
        ids
    }

    fn turn(&self, tokenizer: &Tokenizer, turn: &Turn<'_>) -> Vec<u32> {
        let mut ids = vec![self.start];
        ids.extend(tokenizer.encode(&format!("{}\n{}", turn.role, turn.content)));
        self.close(tokenizer, &mut ids);
        ids
    }

    fn close(&self, tokenizer: &Tokenizer, ids: &mut Vec<u32>) {
        ids.push(self.end);
        ids.extend(tokenizer.encode("\n"));
    }

    /// The tokens of a conversation up to where the assistant speaks, at most `limit`. What does not fit is left out from
    /// the oldest turn on, the system's turns last; of a last turn that alone is too long the end is kept. The same input
    /// gives the same tokens, so that whoever repeats the run reads the same prompt.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, turns: &[Turn<'_>], limit: usize) -> Vec<u32> {
        let opening = self.head(tokenizer, "assistant");
        let mut left = limit.saturating_sub(opening.len());
        let Some((last, earlier)) = turns.split_last() else { return opening };
        let mut tail = self.turn(tokenizer, last);
        if tail.len() > left {
            tail = self.cut(tokenizer, last, left);
        }
        left = left.saturating_sub(tail.len());

        let mut kept: Vec<Option<Vec<u32>>> = earlier.iter().map(|_| None).collect();
        let newest_first = |system: bool| {
            earlier.iter().enumerate().rev().filter(move |(_, turn)| (turn.role == "system") == system)
        };
        // An older turn never stays when a newer one of its kind went.
        'kinds: for system in [true, false] {
            for (index, turn) in newest_first(system) {
                let ids = self.turn(tokenizer, turn);
                if ids.len() > left {
                    continue 'kinds;
                }
                left -= ids.len();
                if let Some(slot) = kept.get_mut(index) {
                    *slot = Some(ids);
                }
            }
        }
        kept.into_iter().flatten().flatten().chain(tail).chain(opening).collect()
    }

    /// A turn with only the end of its content, in at most `limit` tokens.
    fn cut(&self, tokenizer: &Tokenizer, turn: &Turn<'_>, limit: usize) -> Vec<u32> {
        let mut ids = self.head(tokenizer, turn.role);
        let mut end = Vec::new();
        self.close(tokenizer, &mut end);
        let content = tokenizer.encode(turn.content);
        let room = limit.saturating_sub(ids.len() + end.len());
        ids.extend(content.iter().skip(content.len().saturating_sub(room)));
        ids.extend(end);
        ids
    }
}

/// The turns of an input, oldest first; `None` when it holds images, which no text model can read.
pub(super) fn turns(input: &ChatInput) -> Option<Vec<Turn<'_>>> {
    match input {
        ChatInput::Generate(text) => Some(vec![Turn { role: "user", content: text }]),
        ChatInput::Chat(messages) => messages
            .iter()
            .map(|m| m.images.is_empty().then(|| Turn { role: m.role.as_str(), content: &m.content }))
            .collect(),
    }
}
