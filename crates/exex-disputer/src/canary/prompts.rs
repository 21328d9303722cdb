//! What canaries ask, with the answer that is known beforehand.
//!
//! The verdict on a canary never depends on the reference: it is the re-executed answer that counts. The reference tells
//! whether the disputer's own model is the one it believes to run.

use alloy_primitives::{B256, Keccak256};
use thiserror::Error;

/// A question and what its answer must contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryPrompt {
    /// The question.
    pub text: String,
    /// What a right answer contains; empty where that is not known.
    pub reference: String,
}

/// Why a file is no book of questions.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BookError {
    /// A line that is neither empty nor a question.
    #[error("line {line}: expected a question, or a question, a tab and what its answer contains")]
    Line {
        /// Its number from 1.
        line: usize,
    },
    /// Too few to hide among.
    #[error("{found} questions: expected {MIN_QUESTIONS} or more, or each would be known by its repetitions")]
    TooFew {
        /// How many there are.
        found: usize,
    },
}

/// Least questions of a book.
const MIN_QUESTIONS: usize = 100;

/// Questions that users gave away. What a worker reads tells a canary from a user at once where canaries ask in words of
/// their own: whoever is to be hidden among users asks as they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book(Vec<CanaryPrompt>);

impl Book {
    /// One question a line, in UTF-8; after a tab what a right answer contains, where that is known.
    ///
    /// # Errors
    /// When a line is none, or there are fewer than a hundred.
    pub fn parse(text: &str) -> Result<Self, BookError> {
        let mut questions = Vec::new();
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (asked, reference) = line.split_once('\t').unwrap_or((line, ""));
            if asked.trim().is_empty() || reference.contains('\t') {
                return Err(BookError::Line { line: at + 1 });
            }
            questions.push(CanaryPrompt { text: asked.to_owned(), reference: reference.trim().to_owned() });
        }
        if questions.len() < MIN_QUESTIONS {
            return Err(BookError::TooFew { found: questions.len() });
        }
        Ok(Self(questions))
    }

    /// The n-th question; after the last one it begins again, and whoever remembers them knows a canary by it.
    pub fn question(&self, n: u64) -> Option<&CanaryPrompt> {
        self.0.get(usize::try_from(n).ok()?.checked_rem(self.0.len())?)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: see [`Self::parse`].
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

const CAPITALS: [(&str, &str); 24] = [
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Portugal", "Lisbon"),
    ("Austria", "Vienna"),
    ("Poland", "Warsaw"),
    ("Greece", "Athens"),
    ("Norway", "Oslo"),
    ("Sweden", "Stockholm"),
    ("Finland", "Helsinki"),
    ("Denmark", "Copenhagen"),
    ("Ireland", "Dublin"),
    ("Hungary", "Budapest"),
    ("Egypt", "Cairo"),
    ("Kenya", "Nairobi"),
    ("Peru", "Lima"),
    ("Chile", "Santiago"),
    ("Ecuador", "Quito"),
    ("Cuba", "Havana"),
    ("Japan", "Tokyo"),
    ("Thailand", "Bangkok"),
    ("Vietnam", "Hanoi"),
    ("Iran", "Tehran"),
    ("Iraq", "Baghdad"),
];

const OPPOSITES: [(&str, &str); 12] = [
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("day", "night"),
    ("old", "new"),
    ("easy", "difficult"),
    ("rich", "poor"),
    ("light", "dark"),
    ("open", "closed"),
    ("victory", "defeat"),
    ("empty", "full"),
    ("early", "late"),
];

/// Numbers that follow from a secret: the same secret gives the same prompts.
#[derive(Clone)]
pub struct Dice {
    secret: B256,
    thrown: u64,
}

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dice(..)")
    }
}

impl Dice {
    /// Dice of a secret, for one purpose.
    pub fn new(secret: B256, purpose: &str) -> Self {
        let mut hasher = Keccak256::new();
        hasher.update(secret);
        hasher.update(purpose);
        Self { secret: hasher.finalize(), thrown: 0 }
    }

    /// A number below `sides`; 0 when there are none.
    pub fn throw(&mut self, sides: u64) -> u64 {
        let mut hasher = Keccak256::new();
        hasher.update(self.secret);
        hasher.update(self.thrown.to_be_bytes());
        self.thrown += 1;
        let digest = hasher.finalize();
        let number = digest.iter().take(8).fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
        number.checked_rem(sides).unwrap_or(0)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.throw(of.len() as u64)).unwrap_or(0))
    }
}

/// The next question.
pub fn prompt(dice: &mut Dice) -> CanaryPrompt {
    let plain = match dice.throw(5) {
        0 => capital(dice),
        1 => opposite(dice),
        2 => product(dice),
        3 => difference(dice),
        _ => sum(dice),
    };
    typed(plain, dice)
}

fn filled(dice: &mut Dice, ways: &[&str], slots: &[(&str, String)], reference: String) -> CanaryPrompt {
    let way = dice.pick(ways).copied().unwrap_or_default();
    let text = slots.iter().fold(way.to_owned(), |text, (slot, value)| text.replace(slot, value));
    CanaryPrompt { text, reference }
}

fn capital(dice: &mut Dice) -> CanaryPrompt {
    let ways = [
        "What is the capital of {x}?",
        "Name the capital of {x}.",
        "Which city is the capital of {x}?",
        "Capital of {x}?",
        "Tell me the capital of {x}.",
    ];
    let (country, city) = dice.pick(&CAPITALS).copied().unwrap_or_default();
    filled(dice, &ways, &[("{x}", country.to_owned())], city.to_owned())
}

fn opposite(dice: &mut Dice) -> CanaryPrompt {
    let ways = ["What is the opposite of {x}?", "Opposite of {x}?", "Name the opposite of {x}."];
    let (word, other) = dice.pick(&OPPOSITES).copied().unwrap_or_default();
    filled(dice, &ways, &[("{x}", word.to_owned())], other.to_owned())
}

fn sum(dice: &mut Dice) -> CanaryPrompt {
    let ways =
        ["What is {a} plus {b}?", "What is {a} + {b}?", "Add {a} and {b}.", "How much is {a} plus {b}?"];
    let (a, b) = (1 + dice.throw(99), 1 + dice.throw(99));
    filled(dice, &ways, &[("{a}", a.to_string()), ("{b}", b.to_string())], (a + b).to_string())
}

fn difference(dice: &mut Dice) -> CanaryPrompt {
    let ways = ["What is {a} minus {b}?", "What is {a} - {b}?", "How much is {a} minus {b}?"];
    let (rest, b) = (1 + dice.throw(60), 1 + dice.throw(39));
    filled(dice, &ways, &[("{a}", (rest + b).to_string()), ("{b}", b.to_string())], rest.to_string())
}

fn product(dice: &mut Dice) -> CanaryPrompt {
    let ways = ["What is {a} times {b}?", "How much is {a} times {b}?", "What is {a} * {b}?"];
    let (a, b) = (2 + dice.throw(11), 2 + dice.throw(11));
    filled(dice, &ways, &[("{a}", a.to_string()), ("{b}", b.to_string())], (a * b).to_string())
}

/// How people type: not always with capitals, marks or manners.
fn typed(mut prompt: CanaryPrompt, dice: &mut Dice) -> CanaryPrompt {
    match dice.throw(10) {
        0 | 1 => prompt.text = prompt.text.to_lowercase(),
        2 => {
            let bare = prompt.text.trim_end_matches(['?', '.']).to_owned();
            prompt.text = bare;
        }
        3 => {
            let mut letters = prompt.text.chars();
            let first = letters.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
            prompt.text = format!("Please {first}{}", letters.as_str());
        }
        _ => {}
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn prompts_follow_from_the_secret_and_differ() {
        let all = |secret: u8| {
            let mut dice = Dice::new(B256::repeat_byte(secret), "prompts");
            (0..500).map(|_| prompt(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let texts: BTreeSet<String> = all(1).into_iter().map(|p| p.text).collect();
        assert!(texts.len() > 350, "{}", texts.len());
        for prompt in all(3) {
            assert!(!prompt.text.is_empty() && !prompt.reference.is_empty());
            assert!(!prompt.text.contains('{'), "{}", prompt.text);
        }
    }

    #[test]
    fn a_book_is_read_line_by_line() {
        let line = |n: usize| {
            if n.is_multiple_of(2) { format!("Question {n}?\tanswer {n}\n") } else { format!("q {n}\n\n") }
        };
        let text: String = (0..100).map(line).collect();
        let book = Book::parse(&text).unwrap();
        assert_eq!(book.len(), 100);
        let asked: BTreeSet<&str> = (7..107).map(|n| book.question(n).unwrap().text.as_str()).collect();
        assert_eq!(asked.len(), 100, "each once");
        let second = CanaryPrompt { text: "Question 2?".into(), reference: "answer 2".into() };
        assert_eq!(book.question(2), Some(&second));
        let third = CanaryPrompt { text: "q 3".into(), reference: String::new() };
        assert_eq!(book.question(103), Some(&third));
        assert_eq!(Book::parse("one\ntwo\n"), Err(BookError::TooFew { found: 2 }));
        assert_eq!(Book::parse("one\n\tx\n"), Err(BookError::Line { line: 2 }));
        assert_eq!(Book::parse("one\ta\tb\n"), Err(BookError::Line { line: 1 }));
    }

    #[test]
    fn references_are_right() {
        let mut dice = Dice::new(B256::repeat_byte(9), "sums");
        for _ in 0..50 {
            let asked = sum(&mut dice);
            let numbers: Vec<u64> =
                asked.text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
            assert_eq!(numbers.iter().sum::<u64>().to_string(), asked.reference, "{}", asked.text);
        }
    }
}
