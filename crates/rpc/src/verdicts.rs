//! What a disputer's node tells its operator: verdicts and why, evidence, and what canaries found.

use alloy_primitives::{Address, B256, TxHash, U256};
use lcai_primitives::{
    ids::{JobId, SessionId},
    quantity,
};
use serde::{Deserialize, Serialize};

/// What the disputer found of a job's answer, and how the dispute over it stands. Holds nothing of prompt or answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictInfo {
    /// The job.
    pub job_id: JobId,
    /// Its session.
    pub session_id: SessionId,
    /// Who answered it.
    pub worker: Address,
    /// Whether it is one of this disputer's canaries.
    pub canary: bool,
    /// The dispute over it; `null` when there is none.
    pub dispute: Option<DisputeInfo>,
    /// What repeating the job came to; `null` before it was repeated, and when it cannot be decided.
    pub explanation: Option<VerdictExplanation>,
    /// Why it cannot be decided; the dispute then defaults on chain.
    pub undecided: Option<String>,
}

/// A dispute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisputeInfo {
    /// Who filed it.
    pub filer: Address,
    /// Unix seconds of block time after which it defaults.
    #[serde(with = "quantity")]
    pub deadline: u64,
    /// What the answer must score, basis points.
    #[serde(with = "quantity")]
    pub threshold_bps: u64,
    /// How it stands on chain.
    pub outcome: DisputeOutcome,
    /// The score on chain, basis points, once there is a verdict.
    #[serde(with = "quantity::option")]
    pub score_bps: Option<u64>,
}

/// How a dispute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DisputeOutcome {
    /// There is no verdict yet.
    Open,
    /// The worker lost.
    Guilty,
    /// The worker won.
    NotGuilty,
    /// There was no verdict in time: fee and bond went back.
    Defaulted,
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictExplanation {
    /// Whether the worker is guilty.
    pub guilty: bool,
    /// What is sent with the verdict, basis points.
    #[serde(with = "quantity")]
    pub score_bps: u64,
    /// What decided.
    pub ground: VerdictGround,
    /// The comparison, where that decided.
    pub comparison: Option<ComparisonInfo>,
}

/// What decides a dispute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerdictGround {
    /// The job was repeated and the answers compared.
    Compared,
    /// The response blob holds other bytes than the worker committed to.
    ResponseNotAsCommitted,
    /// No block included the response blob, and nobody has it.
    ResponseNeverPublished,
    /// The answer to a canary does not open under the key that was wrapped for its worker.
    AnswerNotUnderKey,
    /// The prompt does not open under a key that its user escrowed for the disputer.
    PromptNotAsEscrowed,
}

/// Two answers compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparisonInfo {
    /// What the score had to reach, basis points.
    #[serde(with = "quantity")]
    pub threshold_bps: u64,
    /// The rung that gave the score.
    pub decided_by: RungName,
    /// Everything compared, in order.
    pub findings: Vec<FindingInfo>,
    /// Which of the histories reachable under recent reorgs it was compared under, 0 the chain's own.
    #[serde(with = "quantity")]
    pub history: u64,
    /// How many there were.
    #[serde(with = "quantity")]
    pub histories: u64,
    /// What the repeated answer was computed with.
    pub manifest: ManifestInfo,
}

/// A rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RungName {
    /// The same bytes.
    Bytes,
    /// The same tokens from the start.
    TokenPrefix,
    /// The same meaning, as far as an embedding tells.
    Similarity,
}

/// What one rung found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingInfo {
    /// The rung.
    pub rung: RungName,
    /// Its score, basis points.
    #[serde(with = "quantity")]
    pub score_bps: u64,
    /// Length of the worker's answer, in bytes or tokens as the rung counts.
    #[serde(with = "quantity::option")]
    pub claimed: Option<u64>,
    /// Length of the repeated answer.
    #[serde(with = "quantity::option")]
    pub repeated: Option<u64>,
    /// Position of the first token that differs, from 0.
    #[serde(with = "quantity::option")]
    pub first_divergence: Option<u64>,
}

/// What a repeated answer was computed with: equal on two machines, the verdicts are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestInfo {
    /// The model's name.
    pub model: String,
    /// SHA-256 of the weights, 64 hex digits.
    pub model_digest: String,
    /// What computed, with its version.
    pub engine: String,
    /// Class of instruction set.
    pub isa: String,
    /// Version of the disputer's software.
    pub program: String,
    /// Most tokens the answer may have.
    #[serde(with = "quantity")]
    pub max_tokens: u64,
    /// Temperature in thousandths.
    #[serde(with = "quantity")]
    pub temperature_milli: u64,
    /// Seed of the sampler.
    #[serde(with = "quantity")]
    pub seed: u64,
    /// The embedding model, where one compares: its name.
    pub embedder: Option<String>,
    /// And its digest.
    pub embedder_digest: Option<String>,
}

/// A verdict's evidence, as the disputer signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceInfo {
    /// The job.
    pub job_id: JobId,
    /// The payload of the evidence's blob: JSON.
    pub document: String,
    /// Versioned hash of that blob, once it is posted.
    pub versioned_hash: Option<B256>,
    /// The transaction that posted it.
    pub transaction: Option<TxHash>,
}

/// A payment that the disputer's operator is to make to an account of canaries, as an exchange pays a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryPayment {
    /// Whom to pay.
    pub account: Address,
    /// How much, wei.
    pub amount: U256,
    /// When, unix seconds: as long before the first session as its user was paid.
    #[serde(with = "quantity")]
    pub at: u64,
    /// From then on it is of no use.
    #[serde(with = "quantity")]
    pub until: u64,
}

/// What became of a worker's answers, and what canaries found. The counts of `canary…` are of the jobs that the disputer
/// still holds (the blobs' retention period), the others of all it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatistics {
    /// The worker.
    pub worker: Address,
    /// Jobs completed.
    #[serde(with = "quantity")]
    pub completed: u64,
    /// Disputes filed.
    #[serde(with = "quantity")]
    pub disputed: u64,
    /// Verdicts against it.
    #[serde(with = "quantity")]
    pub convicted: u64,
    /// Verdicts for it.
    #[serde(with = "quantity")]
    pub acquitted: u64,
    /// Disputes without a verdict.
    #[serde(with = "quantity")]
    pub defaulted: u64,
    /// Whether it is tested more often: it lost a dispute, or one is open.
    pub suspected: bool,
    /// Whether it is suspended now.
    pub suspended: bool,
    /// Canaries it was sent.
    #[serde(with = "quantity")]
    pub canaries: u64,
    /// Those it answered.
    #[serde(with = "quantity")]
    pub canaries_answered: u64,
    /// Those over which it was disputed.
    #[serde(with = "quantity")]
    pub canaries_disputed: u64,
    /// Those over which it was convicted.
    #[serde(with = "quantity")]
    pub canaries_convicted: u64,
}
