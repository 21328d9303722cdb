//! Relay frames: what a worker streams and a session's owner reads (live wire format, section 10).
//!
//! A job's frames are chunks 1..N, each an independently sealed delta, then one terminal frame that carries the whole
//! ciphertext under the worker's signature. Only the terminal frame counts; chunks are a preview. One member is ours:
//! `mac` on chunks, for the user to check what the relay passed on.

use crate::ids::{JobId, SessionId};
use alloy_primitives::{B256, FixedBytes};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// Nonce and tag around every sealed payload: no payload is shorter.
pub const SEAL_OVERHEAD: usize = 28;

/// Largest payload of a terminal frame: what fits in one blob.
pub const MAX_COMPLETE_PAYLOAD: usize = 126_972;

/// Largest payload of a chunk or metadata frame. A quarter second of audio is 12,000 bytes.
pub const MAX_CHUNK_PAYLOAD: usize = 64 * 1024;

/// Largest frame as JSON: a full terminal payload in base64 and room for the members.
pub const MAX_FRAME_JSON: usize = MAX_COMPLETE_PAYLOAD.div_ceil(3) * 4 + 4096;

/// Most chunks of one job.
pub const MAX_CHUNKS: u32 = 1 << 20;

/// Longest correlation id, code or message, in bytes.
pub const MAX_TEXT: usize = 512;

/// r, s and v of a worker's signature over a response.
pub type FrameSignature = FixedBytes<65>;

/// Why a frame is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME_JSON`].
    #[error("a frame is at most {MAX_FRAME_JSON} bytes, this one {0}")]
    TooLong(usize),
    /// Not a frame in JSON.
    #[error("not a frame: {0}")]
    Malformed(String),
    /// A rule of the frame's type is broken.
    #[error("bad {frame} frame: {rule}")]
    Rule {
        /// The frame's type.
        frame: FrameType,
        /// What does not hold.
        rule: &'static str,
    },
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameType {
    /// A sealed delta.
    Chunk,
    /// The whole answer, signed; the last frame of a job.
    Complete,
    /// The worker gave up, or the relay dropped a frame.
    Error,
    /// Sealed facts about the answer, such as web sources.
    Metadata,
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chunk => "chunk",
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Metadata => "metadata",
        })
    }
}

/// What a chunk's delta is part of. Missing on the wire means text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrameKind {
    /// The answer. Only this enters the settled ciphertext.
    #[default]
    Text,
    /// What the model thought before it.
    Reasoning,
    /// A descriptor of something held elsewhere.
    Artifact,
    /// PCM samples or their descriptors.
    Audio,
    /// Counts and times of the inference.
    Stats,
}

/// The relay's notice that a frame did not reach the consumer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryFailure {
    /// Stable code, e.g. `RATE_LIMITED`.
    pub code: String,
    /// The frame that was dropped.
    pub dropped_seq: u32,
    /// For a person; may be empty.
    pub message: String,
}

/// One frame. In JSON it is the live network's object; see the module for the rules, [`Frame::validate`] for their check.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireFrame", into = "WireFrame")]
pub struct Frame {
    /// What it is.
    pub frame_type: FrameType,
    /// Part of what; [`FrameKind::Text`] when the wire leaves it out.
    pub kind: FrameKind,
    /// The job.
    pub job_id: JobId,
    /// Its session.
    pub session_id: SessionId,
    /// 1..N for chunks across all kinds, N + 1 for the terminal frame, 0 for metadata.
    pub seq: u32,
    /// 0 on chunks, equal to `seq` on the terminal frame, 1 on metadata.
    pub total_chunks: u32,
    /// Sealed bytes; empty where the wire has null.
    pub payload: Vec<u8>,
    /// The worker's signature over the response; terminal frame only.
    pub signature: Option<FrameSignature>,
    /// `"{sessionId}-{jobId}"` from workers of today.
    pub correlation_id: String,
    /// Unix seconds by the sender's clock.
    pub ts: u64,
    /// Chunks only: HMAC-SHA256 by the session key over job id, seq, previous mac and payload.
    pub mac: Option<B256>,
    /// Only on an error frame made by the relay.
    pub failure: Option<DeliveryFailure>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} of job {} session {}", self.frame_type, self.job_id, self.session_id)?;
        write!(f, ", seq {}/{}, {} bytes", self.seq, self.total_chunks, self.payload.len())?;
        match &self.failure {
            Some(failure) => write!(f, ", {failure:?})"),
            None => f.write_str(")"),
        }
    }
}

impl Frame {
    fn new(frame_type: FrameType, job_id: JobId, session_id: SessionId, ts: u64) -> Self {
        Self {
            frame_type,
            kind: FrameKind::Text,
            job_id,
            session_id,
            seq: 0,
            total_chunks: 0,
            payload: Vec::new(),
            signature: None,
            correlation_id: format!("{session_id}-{job_id}"),
            ts,
            mac: None,
            failure: None,
        }
    }

    /// A sealed delta; `seq` counts from 1 over all kinds. `ts` is unix seconds, here and below.
    pub fn chunk(
        job: JobId,
        session: SessionId,
        seq: u32,
        kind: FrameKind,
        payload: Vec<u8>,
        mac: Option<B256>,
        ts: u64,
    ) -> Self {
        Self { kind, seq, payload, mac, ..Self::new(FrameType::Chunk, job, session, ts) }
    }

    /// The terminal frame after `chunks` chunks.
    pub fn complete(
        job: JobId,
        session: SessionId,
        chunks: u32,
        ciphertext: Vec<u8>,
        signature: FrameSignature,
        ts: u64,
    ) -> Self {
        let seq = chunks.saturating_add(1);
        Self {
            seq,
            total_chunks: seq,
            payload: ciphertext,
            signature: Some(signature),
            ..Self::new(FrameType::Complete, job, session, ts)
        }
    }

    /// Sealed metadata, sent after the inference.
    pub fn metadata(job: JobId, session: SessionId, payload: Vec<u8>, ts: u64) -> Self {
        Self { total_chunks: 1, payload, ..Self::new(FrameType::Metadata, job, session, ts) }
    }

    /// The worker gave up, after its last attempt and before any answer.
    pub fn error(job: JobId, session: SessionId, ts: u64) -> Self {
        Self::new(FrameType::Error, job, session, ts)
    }

    /// The relay dropped a frame of this job.
    pub fn delivery_failure(job: JobId, session: SessionId, failure: DeliveryFailure, ts: u64) -> Self {
        Self { failure: Some(failure), ..Self::new(FrameType::Error, job, session, ts) }
    }

    /// Reads and checks a frame.
    ///
    /// # Errors
    /// When it is too long, not a frame, or breaks a rule of its type.
    pub fn from_json(json: &[u8]) -> Result<Self, FrameError> {
        if json.len() > MAX_FRAME_JSON {
            return Err(FrameError::TooLong(json.len()));
        }
        let frame: Self = serde_json::from_slice(json).map_err(|e| FrameError::Malformed(e.to_string()))?;
        frame.validate()?;
        Ok(frame)
    }

    /// The frame as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Numbers, strings and base64 always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks the rules of the frame's type. The signature and the mac are only checked to be where they belong.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn validate(&self) -> Result<(), FrameError> {
        let rule = match self.frame_type {
            FrameType::Chunk => self.broken_chunk_rule(),
            FrameType::Complete => self.broken_complete_rule(),
            FrameType::Metadata => self.broken_metadata_rule(),
            FrameType::Error => self.broken_error_rule(),
        };
        let rule = rule.or_else(|| self.broken_common_rule());
        rule.map_or(Ok(()), |rule| Err(FrameError::Rule { frame: self.frame_type, rule }))
    }

    fn broken_chunk_rule(&self) -> Option<&'static str> {
        match self {
            f if f.seq == 0 || f.seq > MAX_CHUNKS => Some("seq counts from 1 to 1048576"),
            f if f.total_chunks != 0 => Some("totalChunks is 0"),
            f if f.signature.is_some() => Some("it is not signed"),
            f if !(SEAL_OVERHEAD..=MAX_CHUNK_PAYLOAD).contains(&f.payload.len()) => {
                Some("the payload is 28 to 65536 bytes")
            }
            _ => None,
        }
    }

    fn broken_complete_rule(&self) -> Option<&'static str> {
        // One version of the live worker sends no seq and totalChunks 1.
        let counted = self.seq == self.total_chunks && self.seq >= 1 && self.seq <= MAX_CHUNKS + 1;
        match self {
            f if !(counted || (f.seq == 0 && f.total_chunks == 1)) => {
                Some("seq and totalChunks are chunks + 1")
            }
            f if f.signature.is_none() => Some("it is signed"),
            f if !(SEAL_OVERHEAD..=MAX_COMPLETE_PAYLOAD).contains(&f.payload.len()) => {
                Some("the payload is 28 to 126972 bytes")
            }
            f if f.kind != FrameKind::Text => Some("it has no kind"),
            _ => None,
        }
    }

    fn broken_metadata_rule(&self) -> Option<&'static str> {
        match self {
            f if f.seq != 0 || f.total_chunks != 1 => Some("seq is 0 and totalChunks 1"),
            f if f.signature.is_some() => Some("it is not signed"),
            f if !(SEAL_OVERHEAD..=MAX_CHUNK_PAYLOAD).contains(&f.payload.len()) => {
                Some("the payload is 28 to 65536 bytes")
            }
            _ => None,
        }
    }

    fn broken_error_rule(&self) -> Option<&'static str> {
        match self {
            f if !f.payload.is_empty() => Some("it has no payload"),
            f if f.signature.is_some() => Some("it is not signed"),
            f if f.failure.is_some() && (f.seq != 0 || f.total_chunks != 0) => {
                Some("one with a code has no seq and no totalChunks")
            }
            _ => None,
        }
    }

    fn broken_common_rule(&self) -> Option<&'static str> {
        let long = |s: &str| s.len() > MAX_TEXT;
        match self {
            f if f.mac.is_some() && f.frame_type != FrameType::Chunk => Some("only chunks have a mac"),
            f if f.failure.is_some() && f.frame_type != FrameType::Error => Some("only errors have a code"),
            f if long(&f.correlation_id) => Some("correlationId is at most 512 bytes"),
            f if f.failure.as_ref().is_some_and(|d| long(&d.code) || long(&d.message)) => {
                Some("code and message are at most 512 bytes")
            }
            _ => None,
        }
    }

    /// Whether no frame of the job follows.
    pub const fn is_terminal(&self) -> bool {
        matches!(self.frame_type, FrameType::Complete)
            || (matches!(self.frame_type, FrameType::Error) && self.failure.is_none())
    }
}

/// A frame as the node hands it to subscribers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The frame's place in its session, from 1; where a dropped subscriber resumes. Assigned by the node.
    #[serde(with = "crate::quantity")]
    pub cursor: u64,
    /// How many frames between the one before and this one are not kept any more: a session keeps so many bytes. They were
    /// a preview; the complete frame of a job that is undecided stays.
    #[serde(with = "crate::quantity", default, skip_serializing_if = "is_zero")]
    pub missed: u64,
    /// The frame.
    pub frame: Frame,
}

/// As serde asks.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The members on the wire. Workers always send seq to signature; the delivery-failure frame has none of them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireFrame {
    #[serde(rename = "type")]
    frame_type: FrameType,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "kind_or_empty")]
    kind: Option<FrameKind>,
    #[serde(with = "crate::quantity::number")]
    job_id: JobId,
    #[serde(with = "crate::quantity::number")]
    session_id: SessionId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dropped_seq: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    total_chunks: Option<u32>,
    #[serde(default, skip_serializing_if = "Payload::is_left_out")]
    payload: Payload,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(default)]
    correlation_id: Option<String>,
    #[serde(default)]
    ts: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<B256>,
}

/// Go marshals an absent byte slice as null.
#[derive(Default)]
enum Payload {
    #[default]
    LeftOut,
    Null,
    Bytes(Vec<u8>),
}

impl Payload {
    const fn is_left_out(&self) -> bool {
        matches!(self, Self::LeftOut)
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => s.serialize_str(&BASE64.encode(bytes)),
            _ => s.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Some(text) = Option::<String>::deserialize(d)? else { return Ok(Self::Null) };
        BASE64.decode(text).map(Self::Bytes).map_err(|_| D::Error::custom("payload is not standard base64"))
    }
}

fn kind_or_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<FrameKind>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum KindOrText {
        Kind(FrameKind),
        Text(String),
    }
    match Option::<KindOrText>::deserialize(d)? {
        Some(KindOrText::Kind(kind)) => Ok(Some(kind)),
        Some(KindOrText::Text(text)) if !text.is_empty() => Err(D::Error::custom("unknown kind")),
        _ => Ok(None),
    }
}

impl From<Frame> for WireFrame {
    fn from(f: Frame) -> Self {
        let worker = f.failure.is_none();
        let payload = match (worker, f.payload.is_empty()) {
            (false, _) => Payload::LeftOut,
            (true, true) => Payload::Null,
            (true, false) => Payload::Bytes(f.payload),
        };
        let signature = f.signature.map_or_else(String::new, |s| s.to_string());
        let (code, dropped_seq, message) = match f.failure {
            Some(d) => (Some(d.code), Some(d.dropped_seq), Some(d.message)),
            None => (None, None, None),
        };
        Self {
            frame_type: f.frame_type,
            kind: (f.kind != FrameKind::Text).then_some(f.kind),
            job_id: f.job_id,
            session_id: f.session_id,
            code,
            dropped_seq,
            message,
            seq: worker.then_some(f.seq),
            total_chunks: worker.then_some(f.total_chunks),
            payload,
            signature: worker.then_some(signature),
            correlation_id: Some(f.correlation_id),
            ts: f.ts,
            mac: f.mac,
        }
    }
}

impl TryFrom<WireFrame> for Frame {
    type Error = String;

    fn try_from(w: WireFrame) -> Result<Self, String> {
        let signature = match w.signature.as_deref() {
            None | Some("") => None,
            Some(hex) => Some(hex.parse().map_err(|_| "signature is not 65 bytes of hex")?),
        };
        let failure = w.code.filter(|code| !code.is_empty()).map(|code| DeliveryFailure {
            code,
            dropped_seq: w.dropped_seq.unwrap_or_default(),
            message: w.message.unwrap_or_default(),
        });
        Ok(Self {
            frame_type: w.frame_type,
            kind: w.kind.unwrap_or_default(),
            job_id: w.job_id,
            session_id: w.session_id,
            seq: w.seq.unwrap_or_default(),
            total_chunks: w.total_chunks.unwrap_or_default(),
            payload: match w.payload {
                Payload::Bytes(bytes) => bytes,
                Payload::Null | Payload::LeftOut => Vec::new(),
            },
            signature,
            correlation_id: w.correlation_id.unwrap_or_default(),
            ts: w.ts,
            mac: w.mac,
            failure,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const JOB: JobId = JobId(141);
    const SESSION: SessionId = SessionId(7);

    fn json(frame: &Frame) -> String {
        String::from_utf8(frame.to_json()).unwrap()
    }

    #[test]
    fn frames_are_the_live_objects() {
        let chunk = Frame::chunk(JOB, SESSION, 1, FrameKind::Text, vec![7; 28], None, 1_700_000_000);
        assert_eq!(
            json(&chunk),
            r#"{"type":"chunk","jobId":141,"sessionId":7,"seq":1,"totalChunks":0,"payload":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw==","signature":"","correlationId":"7-141","ts":1700000000}"#
        );
        let chunk = Frame { kind: FrameKind::Reasoning, mac: Some(B256::repeat_byte(1)), ..chunk };
        assert_eq!(
            json(&chunk),
            format!(
                r#"{{"type":"chunk","kind":"reasoning","jobId":141,"sessionId":7,"seq":1,"totalChunks":0,"payload":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw==","signature":"","correlationId":"7-141","ts":1700000000,"mac":"0x{}"}}"#,
                "01".repeat(32)
            )
        );
        let complete = Frame::complete(JOB, SESSION, 2, vec![0xde; 30], FrameSignature::repeat_byte(0xab), 5);
        assert_eq!(
            json(&complete),
            format!(
                r#"{{"type":"complete","jobId":141,"sessionId":7,"seq":3,"totalChunks":3,"payload":"3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e3t7e","signature":"0x{}","correlationId":"7-141","ts":5}}"#,
                "ab".repeat(65)
            )
        );
        assert_eq!(
            json(&Frame::error(JOB, SESSION, 5)),
            r#"{"type":"error","jobId":141,"sessionId":7,"seq":0,"totalChunks":0,"payload":null,"signature":"","correlationId":"7-141","ts":5}"#
        );
        let failure =
            DeliveryFailure { code: "RATE_LIMITED".into(), dropped_seq: 9, message: "slow down".into() };
        assert_eq!(
            json(&Frame::delivery_failure(JOB, SESSION, failure, 5)),
            r#"{"type":"error","jobId":141,"sessionId":7,"code":"RATE_LIMITED","droppedSeq":9,"message":"slow down","correlationId":"7-141","ts":5}"#
        );
        for frame in [chunk, complete, Frame::metadata(JOB, SESSION, vec![1; 40], 5)] {
            assert_eq!(Frame::from_json(&frame.to_json()), Ok(frame));
        }
    }

    #[test]
    fn readers_are_lenient_where_the_live_senders_differ() {
        let sig = "11".repeat(65);
        let old = format!(
            r#"{{"type":"complete","jobId":1,"sessionId":2,"totalChunks":1,"payload":"{}","signature":"0x{sig}","kind":"","x":1}}"#,
            BASE64.encode([0; 28])
        );
        let frame = Frame::from_json(old.as_bytes()).unwrap();
        assert_eq!((frame.seq, frame.total_chunks, frame.kind), (0, 1, FrameKind::Text));
        let failure = Frame::from_json(
            br#"{"type":"error","code":"RATE_LIMITED","jobId":1,"sessionId":2,"droppedSeq":4}"#,
        )
        .unwrap();
        assert_eq!(failure.failure.as_ref().unwrap().dropped_seq, 4);
        assert!(!failure.is_terminal());
        let gave_up = Frame::from_json(br#"{"type":"error","jobId":1,"sessionId":2,"seq":0,"totalChunks":0,"payload":"","signature":"","correlationId":null,"ts":1}"#).unwrap();
        assert!(gave_up.is_terminal());
    }

    #[test]
    fn broken_rules_are_named() {
        let chunk = || Frame::chunk(JOB, SESSION, 1, FrameKind::Text, vec![0; 28], None, 0);
        let complete = || Frame::complete(JOB, SESSION, 0, vec![0; 28], FrameSignature::ZERO, 0);
        let metadata = || Frame::metadata(JOB, SESSION, vec![0; 28], 0);
        let bad = [
            Frame { seq: 0, ..chunk() },
            Frame { total_chunks: 1, ..chunk() },
            Frame { signature: Some(FrameSignature::ZERO), ..chunk() },
            Frame { payload: vec![0; 27], ..chunk() },
            Frame { payload: vec![0; MAX_CHUNK_PAYLOAD + 1], ..chunk() },
            Frame { correlation_id: "x".repeat(MAX_TEXT + 1), ..chunk() },
            Frame { signature: None, ..complete() },
            Frame { seq: 2, ..complete() },
            Frame { payload: vec![0; MAX_COMPLETE_PAYLOAD + 1], ..complete() },
            Frame { kind: FrameKind::Audio, ..complete() },
            Frame { mac: Some(B256::ZERO), ..complete() },
            Frame { seq: 1, ..metadata() },
            Frame { signature: Some(FrameSignature::ZERO), ..metadata() },
            Frame { payload: vec![1], ..Frame::error(JOB, SESSION, 0) },
        ];
        for frame in bad {
            assert!(matches!(frame.validate(), Err(FrameError::Rule { .. })), "{frame:?}");
        }
        for frame in [chunk(), complete(), metadata(), Frame::error(JOB, SESSION, 0)] {
            assert_eq!(frame.validate(), Ok(()), "{frame:?}");
        }
    }

    #[test]
    fn malformed_frames_are_refused() {
        let bad = [
            r#"{"type":"other","jobId":1,"sessionId":2}"#,
            r#"{"type":"error","sessionId":2}"#,
            r#"{"type":"error","jobId":-1,"sessionId":2}"#,
            r#"{"type":"chunk","kind":"smell","jobId":1,"sessionId":2,"seq":1}"#,
            r#"{"type":"chunk","jobId":1,"sessionId":2,"seq":1,"payload":"*"}"#,
            r#"{"type":"complete","jobId":1,"sessionId":2,"seq":1,"totalChunks":1,"signature":"0x1234"}"#,
            r#"{"type":"chunk","jobId":1,"sessionId":2,"seq":4294967296}"#,
            "",
        ];
        for text in bad {
            assert!(matches!(Frame::from_json(text.as_bytes()), Err(FrameError::Malformed(_))), "{text}");
        }
        let long = vec![b' '; MAX_FRAME_JSON + 1];
        assert_eq!(Frame::from_json(&long), Err(FrameError::TooLong(MAX_FRAME_JSON + 1)));
    }

    #[test]
    fn the_largest_answer_fits_a_frame() {
        let text = "\u{1}".repeat(MAX_TEXT);
        let mut frame = Frame::complete(
            JobId(u64::MAX),
            SessionId(u64::MAX),
            MAX_CHUNKS,
            vec![0xff; MAX_COMPLETE_PAYLOAD],
            FrameSignature::repeat_byte(0xff),
            u64::MAX,
        );
        frame.correlation_id = text;
        assert_eq!(Frame::from_json(&frame.to_json()), Ok(frame));
    }

    fn kind() -> impl Strategy<Value = FrameKind> {
        prop_oneof![
            Just(FrameKind::Text),
            Just(FrameKind::Reasoning),
            Just(FrameKind::Artifact),
            Just(FrameKind::Audio),
            Just(FrameKind::Stats)
        ]
    }

    prop_compose! {
        fn any_frame()(
            which in 0..5,
            job: u64, session: u64, seq in 1..MAX_CHUNKS, ts: u64, dropped_seq: u32,
            kind in kind(),
            payload in proptest::collection::vec(any::<u8>(), SEAL_OVERHEAD..600),
            mac in proptest::option::of(any::<[u8; 32]>()),
            text in any::<String>(),
        ) -> Frame {
            let (job, session) = (JobId(job), SessionId(session));
            match which {
                0 => Frame::chunk(job, session, seq, kind, payload, mac.map(B256::from), ts),
                1 => Frame::complete(job, session, seq, payload, FrameSignature::repeat_byte(seq as u8), ts),
                2 => Frame::metadata(job, session, payload, ts),
                3 => Frame::error(job, session, ts),
                _ => {
                    let cut: String = text.chars().take(100).collect();
                    let failure = DeliveryFailure { code: "C".into(), dropped_seq, message: cut };
                    Frame::delivery_failure(job, session, failure, ts)
                }
            }
        }
    }

    proptest! {
        #[test]
        fn frames_round_trip(frame in any_frame(), cursor: u64) {
            prop_assert_eq!(Frame::from_json(&frame.to_json()).unwrap(), frame.clone());
            let envelope = Envelope { cursor, missed: 0, frame };
            let json = serde_json::to_vec(&envelope).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Envelope>(&json).unwrap(), envelope);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Frame::from_json(&bytes).is_err());
        }
    }
}
