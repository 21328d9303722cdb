//! What is inside a prompt blob and a response blob once they are opened.
//!
//! A prompt is read in two layers (live wire format, section 8): the search envelope, then the prompt envelope on its inner
//! text. All of it is written by users, so every branch ends in a value or a refusal; no error carries the plaintext, and
//! `Debug` prints lengths only.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use std::{borrow::Cow, fmt};

/// Marks the search envelope; no JSON and no text begins with it.
const SEARCH_MARK: u8 = 0x00;

/// Most images a prompt may carry.
pub const MAX_IMAGES: usize = 8;

/// Most base64 characters of audio a prompt may carry.
pub const MAX_AUDIO: usize = 131_072;

/// Why a prompt is refused. A refusal is final: a retry would read the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// Marked as a search envelope without being one.
    #[error("the search envelope is not valid JSON")]
    BadSearchEnvelope,
    /// More than [`MAX_IMAGES`].
    #[error("a prompt carries at most 8 images, this one {0}")]
    TooManyImages(usize),
    /// More than [`MAX_AUDIO`].
    #[error("a prompt carries at most 131072 base64 characters of audio, this one {0}")]
    AudioTooLong(usize),
    /// Version 3 without messages.
    #[error("a version 3 prompt carries its messages, this one none")]
    NoMessages,
    /// Messages beside text, images or audio.
    #[error("a self-contained prompt carries nothing beside its messages")]
    MixedContent,
    /// A role the models do not know.
    #[error("a message's role is system, user or assistant")]
    UnknownRole,
    /// The last message is not the user's.
    #[error("the last message of a prompt is the user's")]
    LastNotUser,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    fn parse(role: &str) -> Result<Self, PromptError> {
        match role {
            "system" => Ok(Self::System),
            "user" => Ok(Self::User),
            "assistant" => Ok(Self::Assistant),
            _ => Err(PromptError::UnknownRole),
        }
    }

    /// The name on the wire and in chat templates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text.
    pub content: String,
    /// Images of a user turn, base64 without a `data:` prefix.
    #[serde(default)]
    pub images: Vec<String>,
}

impl Message {
    /// A turn of text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), images: Vec::new() }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?}, {} bytes, {} images)", self.role, self.content.len(), self.images.len())
    }
}

/// What a model is asked.
#[derive(Clone, PartialEq, Eq)]
pub enum ChatInput {
    /// The single-prompt call.
    Generate(String),
    /// The chat call; the last message is the user's and carries the images of the prompt.
    Chat(Vec<Message>),
}

impl ChatInput {
    /// As a conversation, for backends that know only chat.
    pub fn into_messages(self) -> Vec<Message> {
        match self {
            Self::Generate(text) => vec![Message::new(Role::User, text)],
            Self::Chat(messages) => messages,
        }
    }
}

impl fmt::Debug for ChatInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generate(text) => write!(f, "Generate({} bytes)", text.len()),
            Self::Chat(messages) => write!(f, "Chat({} messages)", messages.len()),
        }
    }
}

/// The content of the prompt envelope, or plain text as an envelope of version 0.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PromptEnvelope {
    /// 0 for plain text, else as written: 1 text and images, 2 voice, 3 self-contained.
    pub version: i64,
    /// The text; empty when self-contained.
    pub text: String,
    /// Base64 without a `data:` prefix.
    pub images: Vec<String>,
    /// Base64, empty when absent.
    pub audio: String,
    /// Empty means wav.
    pub audio_format: String,
    /// Whether the answer is to be spoken.
    pub audio_response: bool,
    /// The voice to speak with.
    pub voice: String,
    /// The whole conversation, when self-contained.
    pub messages: Vec<Message>,
}

impl fmt::Debug for PromptEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptEnvelope")
            .field("version", &self.version)
            .field("text_bytes", &self.text.len())
            .field("images", &self.images.len())
            .field("audio_bytes", &self.audio.len())
            .field("messages", &self.messages.len())
            .finish()
    }
}

/// Go writes an absent slice or string as null and reads null as absent.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

fn is_false(b: &bool) -> bool {
    !*b
}

#[derive(Serialize, Deserialize)]
struct WireMessage {
    #[serde(default, deserialize_with = "null_as_default")]
    role: String,
    #[serde(default, deserialize_with = "null_as_default")]
    content: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireEnvelope {
    #[serde(default, deserialize_with = "null_as_default")]
    v: i64,
    #[serde(default, deserialize_with = "null_as_default")]
    text: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    images: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    audio: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    audio_format: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_false")]
    audio_response: bool,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    voice: String,
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    messages: Vec<WireMessage>,
}

#[derive(Serialize, Deserialize)]
struct WireSearch {
    #[serde(default, deserialize_with = "null_as_default")]
    v: i64,
    #[serde(default, deserialize_with = "null_as_default")]
    prompt: String,
    #[serde(default, deserialize_with = "null_as_default")]
    search: bool,
}

/// A JSON object as `T`; `None` when it is not one. Through `Value`, where the last of two equal keys wins as it does in
/// the live workers, and an array is not taken for a struct.
fn json_object<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    value.is_object().then(|| serde_json::from_value(value).ok()).flatten()
}

/// Takes the search envelope off (section 8.1): the inner text and whether a search was asked for.
///
/// # Errors
/// When the bytes are marked as an envelope and are not one.
pub fn decode_search_envelope(plain: &[u8]) -> Result<(Cow<'_, [u8]>, bool), PromptError> {
    match plain.split_first() {
        Some((&SEARCH_MARK, json)) => {
            let wire: WireSearch = json_object(json).ok_or(PromptError::BadSearchEnvelope)?;
            Ok((Cow::Owned(wire.prompt.into_bytes()), wire.search))
        }
        _ => Ok((Cow::Borrowed(plain), false)),
    }
}

/// Puts the search envelope on (section 8.1).
pub fn encode_search_envelope(prompt: &str) -> Vec<u8> {
    let wire = WireSearch { v: 1, prompt: prompt.to_owned(), search: true };
    let mut out = vec![SEARCH_MARK];
    out.extend(serde_json::to_vec(&wire).unwrap_or_default());
    out
}

impl PromptEnvelope {
    /// Text outside any envelope.
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A self-contained conversation (version 3).
    pub fn conversation(messages: Vec<Message>) -> Self {
        Self { version: 3, messages, ..Self::default() }
    }

    /// Reads the prompt envelope (section 8.2). Bytes that are not an envelope are plain text.
    ///
    /// # Errors
    /// When it is an envelope that breaks a rule.
    pub fn decode(bytes: &[u8]) -> Result<Self, PromptError> {
        match json_object::<WireEnvelope>(bytes) {
            Some(wire) if wire.v >= 1 => Self::from_wire(wire),
            _ => Ok(Self::plain(String::from_utf8_lossy(bytes))),
        }
    }

    fn from_wire(wire: WireEnvelope) -> Result<Self, PromptError> {
        if wire.images.len() > MAX_IMAGES {
            return Err(PromptError::TooManyImages(wire.images.len()));
        }
        if wire.audio.len() > MAX_AUDIO {
            return Err(PromptError::AudioTooLong(wire.audio.len()));
        }
        let messages = wire
            .messages
            .into_iter()
            .map(|m| Ok(Message::new(Role::parse(&m.role)?, m.content)))
            .collect::<Result<Vec<_>, PromptError>>()?;
        let envelope = Self {
            version: wire.v,
            text: wire.text,
            images: wire.images,
            audio: wire.audio,
            audio_format: wire.audio_format,
            audio_response: wire.audio_response,
            voice: wire.voice,
            messages,
        };
        envelope.check_conversation()?;
        Ok(envelope)
    }

    fn check_conversation(&self) -> Result<(), PromptError> {
        match self.messages.last() {
            None if self.version == 3 => Err(PromptError::NoMessages),
            None => Ok(()),
            Some(_) if !(self.text.is_empty() && self.images.is_empty() && self.audio.is_empty()) => {
                Err(PromptError::MixedContent)
            }
            Some(last) if last.role != Role::User => Err(PromptError::LastNotUser),
            Some(_) => Ok(()),
        }
    }

    /// Whether the prompt is its own history: then it gets none, and it is left out of that of later jobs.
    pub fn is_self_contained(&self) -> bool {
        !self.messages.is_empty()
    }

    /// The bytes to seal. Plain text goes as it is, unless it would be read as something else.
    ///
    /// # Errors
    /// When the envelope breaks a rule a reader would refuse it for.
    pub fn encode(&self) -> Result<Vec<u8>, PromptError> {
        if self.version == 0 && *self == Self::plain(self.text.as_str()) && reads_as_plain(&self.text) {
            return Ok(self.text.clone().into_bytes());
        }
        let wire = WireEnvelope {
            v: self.version.max(1),
            text: self.text.clone(),
            images: self.images.clone(),
            audio: self.audio.clone(),
            audio_format: self.audio_format.clone(),
            audio_response: self.audio_response,
            voice: self.voice.clone(),
            messages: self
                .messages
                .iter()
                .map(|m| WireMessage { role: m.role.as_str().to_owned(), content: m.content.clone() })
                .collect(),
        };
        let bytes = serde_json::to_vec(&wire).unwrap_or_default();
        Self::from_wire(wire)?;
        Ok(bytes)
    }

    /// The prompt as a user turn of later jobs.
    pub fn user_turn(&self) -> Message {
        Message { role: Role::User, content: self.text.clone(), images: self.images.clone() }
    }

    /// What to ask the model, given the session's history (section 8.2, "chat input").
    pub fn chat_input(&self, history: &[Message]) -> ChatInput {
        if self.is_self_contained() {
            return ChatInput::Chat(self.messages.clone());
        }
        if history.is_empty() && self.images.is_empty() {
            return ChatInput::Generate(self.text.clone());
        }
        let mut messages = history.to_vec();
        messages.push(self.user_turn());
        ChatInput::Chat(messages)
    }
}

fn reads_as_plain(text: &str) -> bool {
    text.as_bytes().first() != Some(&SEARCH_MARK)
        && json_object::<WireEnvelope>(text.as_bytes()).is_none_or(|wire| wire.v < 1)
}

/// Bytes to seal for a prompt of text alone; [`decode_prompt`] gives the same text back, whatever it is.
pub fn encode_text_prompt(text: &str) -> Vec<u8> {
    // An envelope of text alone breaks no rule.
    PromptEnvelope::plain(text).encode().unwrap_or_default()
}

/// A decoded prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Whether a web search was asked for. This node answers without one.
    pub search: bool,
    /// The content.
    pub envelope: PromptEnvelope,
}

/// Decodes an opened prompt blob: search envelope, then prompt envelope.
///
/// # Errors
/// When either layer is refused.
pub fn decode_prompt(plain: &[u8]) -> Result<Prompt, PromptError> {
    let (inner, search) = decode_search_envelope(plain)?;
    Ok(Prompt { search, envelope: PromptEnvelope::decode(&inner)? })
}

/// A web page an answer used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchSource {
    /// Place in the list, from 1.
    #[serde(default)]
    pub position: i64,
    /// The page's title.
    #[serde(default)]
    pub title: String,
    /// Its address.
    #[serde(default)]
    pub url: String,
    /// The part that was used.
    #[serde(default)]
    pub snippet: String,
}

impl fmt::Debug for SearchSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SearchSource({})", self.position)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireResponse {
    #[serde(default, deserialize_with = "null_as_default")]
    v: i64,
    #[serde(default, deserialize_with = "null_as_default")]
    answer: String,
    #[serde(default, deserialize_with = "null_as_default")]
    search_context: Vec<SearchSource>,
    #[serde(default, deserialize_with = "null_as_default")]
    template_version: i64,
}

/// A decoded response (section 8.3).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The answer.
    pub answer: String,
    /// Empty when no search was made.
    pub sources: Vec<SearchSource>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({} bytes, {} sources)", self.answer.len(), self.sources.len())
    }
}

/// Decodes an opened response blob; anything but a version 2 envelope is the answer itself.
pub fn decode_response(plain: &[u8]) -> Response {
    match json_object::<WireResponse>(plain) {
        Some(wire) if wire.v == 2 => Response { answer: wire.answer, sources: wire.search_context },
        _ => Response { answer: String::from_utf8_lossy(plain).into_owned(), sources: Vec::new() },
    }
}

impl Response {
    /// The bytes to seal: the raw answer, or the envelope when there are sources.
    pub fn encode(&self) -> Vec<u8> {
        if self.sources.is_empty() {
            return self.answer.clone().into_bytes();
        }
        let wire = WireResponse {
            v: 2,
            answer: self.answer.clone(),
            search_context: self.sources.clone(),
            template_version: 1,
        };
        serde_json::to_vec(&wire).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn decode(json: serde_json::Value) -> Result<PromptEnvelope, PromptError> {
        PromptEnvelope::decode(json.to_string().as_bytes())
    }

    #[test]
    fn search_envelope_fixtures() {
        assert_eq!(decode_search_envelope(b"hello world"), Ok((Cow::Borrowed(&b"hello world"[..]), false)));
        assert_eq!(decode_search_envelope(b"\0{no"), Err(PromptError::BadSearchEnvelope));
        assert_eq!(decode_search_envelope(b""), Ok((Cow::Borrowed(&b""[..]), false)));
        let encoded = encode_search_envelope("hi \"you\"");
        assert_eq!(encoded, b"\0{\"v\":1,\"prompt\":\"hi \\\"you\\\"\",\"search\":true}");
        let (inner, search) = decode_search_envelope(&encoded).unwrap();
        assert_eq!((inner.as_ref(), search), (&b"hi \"you\""[..], true));
    }

    #[test]
    fn accepted_fixtures() {
        let one =
            decode(json!({"v":3,"text":"","messages":[{"role":"user","content":"What is 2+2?"}]})).unwrap();
        assert!(one.is_self_contained());
        assert_eq!(one.chat_input(&[]), ChatInput::Chat(vec![Message::new(Role::User, "What is 2+2?")]));
        let four = decode(json!({"v":3,"text":"","messages":[
            {"role":"system","content":"Answer in one word."},
            {"role":"user","content":"Capital of France?"},
            {"role":"assistant","content":"Paris"},
            {"role":"user","content":"And of \"Italy\"?\nOne word."}]}))
        .unwrap();
        assert_eq!(four.messages.len(), 4);
        assert_eq!(four.messages[3].content, "And of \"Italy\"?\nOne word.");
        assert!(
            decode(json!({"v":1,"text":"","messages":[{"role":"user","content":"hi"}]}))
                .unwrap()
                .is_self_contained()
        );
        let four = decode(json!({"v":4,"text":"hi"})).unwrap();
        assert!(!four.is_self_contained());
        assert_eq!(four.chat_input(&[]), ChatInput::Generate("hi".into()));
    }

    #[test]
    fn refused_fixtures() {
        let user = json!([{"role":"user","content":"hi"}]);
        let cases = [
            (json!({"v":3,"text":"","messages":user,"images":["aGk="]}), PromptError::MixedContent),
            (json!({"v":3,"text":"","messages":user,"audio":"UklGRg=="}), PromptError::MixedContent),
            (
                json!({"v":3,"text":"","messages":user,"images":vec!["aGk="; 9]}),
                PromptError::TooManyImages(9),
            ),
            (json!({"v":3,"text":"hello","messages":user}), PromptError::MixedContent),
            (json!({"v":3,"text":""}), PromptError::NoMessages),
            (json!({"v":3,"text":"","messages":[]}), PromptError::NoMessages),
            (
                json!({"v":3,"text":"","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}),
                PromptError::LastNotUser,
            ),
            (
                json!({"v":3,"text":"","messages":[{"role":"developer","content":"a"}]}),
                PromptError::UnknownRole,
            ),
            (
                json!({"v":2,"text":"","audio":"A".repeat(MAX_AUDIO + 1)}),
                PromptError::AudioTooLong(MAX_AUDIO + 1),
            ),
        ];
        for (json, error) in cases {
            assert_eq!(decode(json), Err(error));
        }
        assert!(decode(json!({"v":2,"text":"","audio":"A".repeat(MAX_AUDIO)})).is_ok());
        assert!(decode(json!({"v":1,"text":"","images":vec!["aGk="; 8]})).is_ok());
    }

    #[test]
    fn what_is_no_envelope_is_plain_text() {
        for text in [
            "",
            "plain question",
            "{\"v\":0,\"text\":\"a\"}",
            "{\"text\":\"a\"}",
            "{\"v\":\"1\"}",
            "[1]",
            "{\"v\":1",
            "null",
            "7",
        ] {
            assert_eq!(PromptEnvelope::decode(text.as_bytes()), Ok(PromptEnvelope::plain(text)), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(PromptEnvelope::decode(deep.as_bytes()), Ok(PromptEnvelope::plain(deep)));
    }

    #[test]
    fn readers_are_lenient_as_the_live_ones() {
        let e = decode(json!({"v":1,"text":"a","images":null,"audio":null,"messages":null,"new":{"x":1}}))
            .unwrap();
        assert_eq!(e, PromptEnvelope { version: 1, text: "a".into(), ..PromptEnvelope::default() });
        let twice = PromptEnvelope::decode(br#"{"v":1,"text":"a","text":"b"}"#).unwrap();
        assert_eq!(twice.text, "b");
    }

    #[test]
    fn images_and_history_make_it_a_chat() {
        let e = decode(json!({"v":1,"text":"what is it?","images":["aGk="]})).unwrap();
        let turn = Message { role: Role::User, content: "what is it?".into(), images: vec!["aGk=".into()] };
        assert_eq!(e.chat_input(&[]), ChatInput::Chat(vec![turn]));
        let history = [Message::new(Role::User, "a"), Message::new(Role::Assistant, "b")];
        let ChatInput::Chat(messages) = PromptEnvelope::plain("c").chat_input(&history) else {
            panic!("not a chat")
        };
        assert_eq!(messages, [history[0].clone(), history[1].clone(), Message::new(Role::User, "c")]);
        let own = PromptEnvelope::conversation(vec![Message::new(Role::User, "d")]);
        assert_eq!(
            own.chat_input(&history),
            ChatInput::Chat(own.messages.clone()),
            "no history beside its own"
        );
    }

    #[test]
    fn both_layers_are_taken_off() {
        let inner = json!({"v":1,"text":"envelope question"}).to_string();
        let prompt = decode_prompt(&encode_search_envelope(&inner)).unwrap();
        assert!(prompt.search);
        assert_eq!(prompt.envelope.text, "envelope question");
    }

    #[test]
    fn response_fixtures() {
        assert_eq!(decode_response(b"Paris"), Response { answer: "Paris".into(), sources: vec![] });
        assert_eq!(decode_response(br#"{"foo":1}"#).answer, r#"{"foo":1}"#);
        assert_eq!(decode_response(br#"{"v":3,"answer":"x"}"#).answer, r#"{"v":3,"answer":"x"}"#);
        assert_eq!(
            decode_response(br#"{"v":2,"answer":"","searchContext":[],"templateVersion":1}"#),
            Response::default()
        );
        let source = SearchSource { position: 1, title: "t".into(), url: "u".into(), snippet: "s".into() };
        let with = Response { answer: "Paris".into(), sources: vec![source] };
        assert_eq!(
            with.encode(),
            br#"{"v":2,"answer":"Paris","searchContext":[{"position":1,"title":"t","url":"u","snippet":"s"}],"templateVersion":1}"#
        );
        assert_eq!(decode_response(&with.encode()), with);
    }

    /// Rule 11 of the design: plaintext never reaches a Debug impl or an error text.
    #[test]
    fn nothing_prints_the_plaintext() {
        let e = decode(json!({"v":3,"text":"","messages":[{"role":"user","content":"my secret"}]})).unwrap();
        let printed = format!(
            "{e:?} {:?} {:?} {:?} {:?}",
            e.messages,
            e.chat_input(&[]),
            ChatInput::Generate("my secret".into()),
            decode_response(b"my secret")
        );
        assert!(!printed.contains("secret"), "{printed}");
        let error = decode(json!({"v":3,"text":"my secret","messages":[{"role":"my secret","content":"x"}]}))
            .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    fn role() -> impl Strategy<Value = Role> {
        prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)]
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in prop_oneof![
            any::<String>(),
            "\\PC*".prop_map(|s| format!("\0{s}")),
            any::<String>().prop_map(|s| json!({"v":1,"text":s}).to_string()),
            Just("{\"v\":3}".to_owned()),
        ]) {
            let prompt = decode_prompt(&encode_text_prompt(&text)).unwrap();
            prop_assert_eq!(prompt.envelope.text, text);
            prop_assert!(!prompt.search);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_prompt(&bytes);
            let _ = decode_response(&bytes);
            let mut marked = vec![0];
            marked.extend_from_slice(&bytes);
            let _ = decode_prompt(&marked);
        }

        #[test]
        fn conversations_round_trip(
            turns in proptest::collection::vec((role(), any::<String>()), 0..6),
            last in any::<String>(),
        ) {
            let mut messages: Vec<_> = turns.into_iter().map(|(r, c)| Message::new(r, c)).collect();
            messages.push(Message::new(Role::User, last));
            let e = PromptEnvelope::conversation(messages);
            prop_assert_eq!(PromptEnvelope::decode(&e.encode().unwrap()), Ok(e));
        }

        #[test]
        fn ordinary_envelopes_round_trip(
            text in any::<String>(),
            images in proptest::collection::vec("[A-Za-z0-9+/]{0,40}", 0..=MAX_IMAGES),
            voice in "[a-z_]{0,8}",
            spoken: bool,
        ) {
            let e = PromptEnvelope { version: 2, text, images, voice, audio_response: spoken, ..PromptEnvelope::default() };
            prop_assert_eq!(PromptEnvelope::decode(&e.encode().unwrap()), Ok(e));
        }
    }
}
