//! `lcai verify`: whoever holds a session's key repeats the disputer's verdict from chain data.

use crate::{
    ask::{DEFAULT_RPC, default_sessions, genesis_hash},
    exit::{KeyError, UsageError},
    keys::AccountKey,
    models::ModelArgs,
};
use alloy_primitives::B256;
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use clap::Args;
use lcai_blob::{Blob, BlobError, BlobHint, BlobSource, FallbackSource, decode};
use lcai_client::{ClientError, Connection, SessionStore};
use lcai_crypto::{EncryptionSecret, SessionKey};
use lcai_exex_disputer::{AnswerRow, Case, Evidence, Ladder, PriorRef, Reexecution, ReexecutionParts};
use lcai_host::Call;
use lcai_inference::{Embedder, MiniLm};
use lcai_node::REORG_DEPTH;
use lcai_primitives::{
    contracts::{Job, JobRegistry},
    ids::{JobId, Subject},
};
use lcai_rpc::{
    api::LcaiApiClient,
    types::{JobInfo, SessionInfo},
};
use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// Flags of `lcai verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The job
    #[arg(value_name = "JOB")]
    pub job: JobId,
    /// The node, over WebSocket; what it says is checked against hashes, or only makes the verdict impossible
    #[arg(long, env = "LCAI_RPC", default_value = DEFAULT_RPC, value_name = "URL")]
    pub rpc: String,
    /// The account that opened the session
    #[command(flatten)]
    pub key: AccountKey,
    /// File with the session's key, 32 bytes in hex: for whoever was given it and did not open the session
    #[arg(long, value_name = "FILE", conflicts_with_all = ["account", "sessions"])]
    pub session_key: Option<PathBuf>,
    /// Where sessions are kept [default: the user's data directory]
    #[arg(long, value_name = "DIR")]
    pub sessions: Option<PathBuf>,
    /// The model to repeat the job with
    #[command(flatten)]
    pub models: ModelArgs,
    /// Directory of all-MiniLM-L6-v2: also compares meanings, as a disputer with an embedder does
    #[arg(long, value_name = "DIR")]
    pub embedder: Option<PathBuf>,
    /// Least score (basis points) of an answer that counts as the model's [default: AIConfig's]
    #[arg(long, value_name = "BPS")]
    pub threshold: Option<u16>,
}

/// A node's blobs; what comes back is checked by who asks.
struct NodeBlobs(Connection);

impl fmt::Debug for NodeBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeBlobs")
    }
}

#[async_trait]
impl BlobSource for NodeBlobs {
    fn name(&self) -> &str {
        "node"
    }

    async fn blob(&self, hash: B256, _: Option<BlobHint>) -> Result<Option<Box<Blob>>, BlobError> {
        let failed = |reason: String| BlobError::Source { source_name: "node".to_owned(), reason };
        let bytes = self.0.rpc().get_blob(hash, None).await.map_err(|e| failed(e.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let wrong = |_| failed(format!("gave {} bytes for a blob", bytes.len()));
        Blob::try_from(bytes.as_ref()).map(|blob| Some(Box::new(blob))).map_err(wrong)
    }
}

/// Runs `lcai verify`.
pub async fn run(args: VerifyArgs) -> eyre::Result<()> {
    let node = Connection::open(&args.rpc, None).await?;
    let key = session_key(&args, &node).await?;
    let (backend, models) = args.models.open().await?;
    let embedder = args.embedder.as_deref().map(MiniLm::load).transpose()?;
    let embedder = embedder.map(|embedder| Arc::new(embedder) as Arc<dyn Embedder>);
    let model = Repeated { backend, models, embedder };
    let (repeated, posted) = verify(&node, args.job, key, model, args.threshold).await?;
    let out = serde_json::json!({ "verdict": repeated, "onChain": posted });
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string_pretty(&out)?)?;
    if repeated.guilty {
        let reason =
            format!("job {}: the answer scores {}, too little to be the model's", args.job, repeated.score);
        return Err(ClientError::Unverified(reason).into());
    }
    Ok(())
}

/// What a job is repeated with.
pub struct Repeated {
    /// Runs the models.
    pub backend: Arc<dyn lcai_inference::Backend>,
    /// Their names.
    pub models: Vec<String>,
    /// Compares meanings; without one bytes and tokens are compared.
    pub embedder: Option<Arc<dyn Embedder>>,
}

impl fmt::Debug for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repeated").field("models", &self.models).finish_non_exhaustive()
    }
}

/// Repeats a job; gives the verdict, and the evidence of the disputer's own where there is one.
///
/// # Errors
/// When the job has no answer, or there can be no verdict.
pub async fn verify(
    node: &Connection,
    job: JobId,
    key: SessionKey,
    model: Repeated,
    threshold: Option<u16>,
) -> eyre::Result<(Evidence, Option<Evidence>)> {
    let Repeated { backend, models, embedder } = model;
    let sources: Vec<Arc<dyn BlobSource>> = vec![Arc::new(NodeBlobs(node.clone()))];
    let blobs = Arc::new(FallbackSource::new(sources));
    let reexecution = Reexecution::new(ReexecutionParts {
        deployment: node.network().deployment,
        // Nothing is opened by escrow here.
        escrow: EncryptionSecret::random(),
        escrow_since: 0,
        ladder: Ladder::new(Arc::clone(&backend), embedder),
        backend,
        blobs: blobs.clone(),
        client: node.chain(),
        models,
        reorg_depth: REORG_DEPTH,
        parallel: 1,
    });
    let (case, on_chain) = case(node, job, threshold).await?;
    let evidence = reexecution.judge_with_key(&case, key).await?;
    let posted = match on_chain.reExecutionBlobHash {
        B256::ZERO => None,
        hash => match blobs.blob(hash, None).await? {
            Some(blob) => Some(Evidence::decode(&decode(blob.as_slice())?)?),
            None => None,
        },
    };
    Ok((evidence, posted))
}

async fn session_key(args: &VerifyArgs, node: &Connection) -> eyre::Result<SessionKey> {
    if let Some(path) = &args.session_key {
        return Ok(read_session_key(path)?);
    }
    let job = job_info(node, args.job).await?;
    let session = session_info(node, &job).await?;
    let signer = args.key.signer(&args.rpc)?;
    let store = SessionStore::new(args.sessions.clone().map_or_else(default_sessions, Ok)?);
    let network = node.network();
    let (chain, registry) = (network.deployment.chain_id, network.deployment.job_registry);
    let kept = store.load(chain, genesis_hash(node).await?, registry, &signer, session.model_id)?;
    let kept = kept.filter(|kept| kept.id == job.session_id);
    let missing = || UsageError(format!("the key of session {} is not kept here", job.session_id));
    Ok(kept.ok_or_else(missing)?.key)
}

fn read_session_key(path: &Path) -> Result<SessionKey, KeyError> {
    let wrong = |reason: String| KeyError(format!("session key {}: {reason}", path.display()));
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?);
    let mut bytes = Zeroizing::new([0; 32]);
    let digits = text.trim().trim_start_matches("0x");
    hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|_| wrong("no 32 bytes in hex".into()))?;
    SessionKey::from_slice(bytes.as_slice()).map_err(|e| wrong(e.to_string()))
}

async fn job_info(node: &Connection, job: JobId) -> eyre::Result<JobInfo> {
    let found = node.rpc().get_job(job).await?;
    found.ok_or_else(|| UsageError(format!("the chain has no job {job}")).into())
}

async fn session_info(node: &Connection, job: &JobInfo) -> eyre::Result<SessionInfo> {
    let found = node.rpc().get_session(job.session_id).await?;
    found.ok_or_else(|| UsageError(format!("the chain has no session {}", job.session_id)).into())
}

/// The case as the disputer's core has it, read from the node and the contracts.
async fn case(node: &Connection, id: JobId, threshold: Option<u16>) -> eyre::Result<(Case, Job)> {
    let job = job_info(node, id).await?;
    let session = session_info(node, &job).await?;
    let on_chain = on_chain(node, id).await?;
    if on_chain.responseBlobHash.is_zero() {
        return Err(UsageError(format!("job {id} has no answer")).into());
    }
    let mut prior = Vec::new();
    for other in session.jobs.iter().filter(|other| **other != id) {
        let other_job = self::on_chain(node, *other).await?;
        let response = (!other_job.responseBlobHash.is_zero())
            .then(|| (other_job.responseBlobHash, other_job.completionBlockNumber.saturating_to()));
        prior.push(PriorRef {
            job_id: *other,
            submit_block: other_job.submitBlockNumber.saturating_to(),
            prompt_blob_hash: other_job.promptBlobHash,
            response,
        });
    }
    let params = &node.network().params;
    let canary_or_user = if on_chain.disputeFiler.is_zero() || on_chain.disputeFiler == session.user {
        params.similarity_threshold_bps
    } else {
        params.canary_similarity_threshold_bps
    };
    let deployment = node.network().deployment;
    let case = Case {
        subject: Subject {
            chain_id: deployment.chain_id,
            contract: deployment.job_registry,
            job_id: id,
            session_id: job.session_id,
            prompt_blob_hash: on_chain.promptBlobHash,
            submit_tx_hash: job.transactions.submit.unwrap_or_default(),
        },
        user: session.user,
        model: session.model_id,
        // A key that opens nothing is no finding here, but a wrong key.
        by_user: false,
        canary: false,
        ours: false,
        escrow: Vec::new(),
        escrowed_at: 0,
        submit_block: on_chain.submitBlockNumber.saturating_to(),
        answer: AnswerRow {
            block: on_chain.completionBlockNumber.saturating_to(),
            blob_hash: on_chain.responseBlobHash,
            ciphertext_hash: on_chain.responseCiphertextHash,
        },
        unpublished: false,
        prior,
        threshold_bps: threshold.unwrap_or(u16::try_from(canary_or_user).unwrap_or(u16::MAX)),
        deadline: u64::MAX,
    };
    Ok((case, on_chain))
}

async fn on_chain(node: &Connection, job: JobId) -> eyre::Result<Job> {
    let call = JobRegistry::getJobCall { jobId: job.word() };
    let call = Call { to: node.network().deployment.job_registry, input: call.abi_encode().into() };
    Ok(JobRegistry::getJobCall::abi_decode_returns(&node.chain().call(call, None).await?)?)
}
