//! `lcai ask`.

use crate::{
    exit::UsageError,
    keys::AccountKey,
    progress::{Progress, human},
};
use alloy_primitives::{B256, U256, utils::format_ether};
use alloy_signer_local::PrivateKeySigner;
use clap::Args;
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai_client::{Answer, ClientError, Connection, Event, SessionStore, User, UserSession};
use lcai_crypto::SessionKey;
use lcai_primitives::ids::ModelId;
use lcai_rpc::types::{ModelInfo, PublishedBlob};
use std::{
    io::{Read, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

/// Where a node listens unless told otherwise.
pub const DEFAULT_RPC: &str = "ws://127.0.0.1:8545";

/// How long a keeper may take to give a session another worker, once its own may not serve it.
const REASSIGNED_WITHIN: Duration = Duration::from_secs(30);

/// The model of the devnet.
pub const DEFAULT_MODEL: &str = lcai_genesis::dev::DEV_MODEL;

/// Flags of `lcai ask`.
#[derive(Debug, Clone, Args)]
pub struct AskArgs {
    /// The prompt; `-` or nothing reads it from standard input
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// The node, over WebSocket
    #[arg(long, env = "LCAI_RPC", default_value = DEFAULT_RPC, value_name = "URL")]
    pub rpc: String,
    /// The model: its exact name, or its 32-byte id in hex
    #[arg(long, default_value = DEFAULT_MODEL, value_name = "NAME")]
    pub model: String,
    /// Refuse a node on another chain
    #[arg(long, value_name = "ID")]
    pub chain_id: Option<u64>,
    /// The account that asks and pays
    #[command(flatten)]
    pub key: AccountKey,
    /// Open a new session even if one is open
    #[arg(long)]
    pub new_session: bool,
    /// Have the chain draw the worker (SessionManager) instead of the dispatcher
    #[arg(long)]
    pub sortition: bool,
    /// Where open sessions are kept [default: the user's data directory]
    #[arg(long, value_name = "DIR")]
    pub sessions: Option<PathBuf>,
    /// Print the receipt as JSON on standard output instead of the answer
    #[arg(long)]
    pub json: bool,
    /// Print nothing but the answer
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs `lcai ask`.
pub async fn run(args: AskArgs) -> eyre::Result<()> {
    // Before a key is asked for, which may not be there.
    check_scheme(&args.rpc)?;
    let prompt = read_prompt(args.prompt.as_deref())?;
    let signer = args.key.signer(&args.rpc)?;
    let store = SessionStore::new(args.sessions.clone().map_or_else(default_sessions, Ok)?);
    let progress = Progress::new(args.quiet || args.json);
    let asking = Asking { args: &args, store, progress };
    asking.run(signer, prompt.as_bytes()).await
}

/// The prompt from the argument, or from standard input.
pub fn read_prompt(argument: Option<&str>) -> eyre::Result<String> {
    let prompt = match argument {
        Some(prompt) if prompt != "-" => prompt.to_owned(),
        _ => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| UsageError(format!("the prompt on standard input is not UTF-8 text: {e}")))?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
    };
    if prompt.is_empty() {
        return Err(ClientError::EmptyPrompt.into());
    }
    Ok(prompt)
}

/// Answers are streamed, so the node is reached over WebSocket.
fn check_scheme(rpc: &str) -> Result<(), UsageError> {
    if ["ws://", "wss://"].iter().any(|scheme| rpc.starts_with(scheme)) {
        return Ok(());
    }
    let address = rpc.split_once("://").map_or(rpc, |(_, address)| address);
    Err(UsageError(format!("--rpc {rpc}: the node is asked over WebSocket, e.g. ws://{address} (or wss://)")))
}

/// Where sessions are kept when nothing else is said.
pub(crate) fn default_sessions() -> eyre::Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
        .ok_or_else(|| UsageError("neither XDG_DATA_HOME nor HOME is set: give --sessions DIR".into()))?;
    Ok(data.join("lcai/sessions"))
}

/// One question on its way.
pub struct Asking<'a> {
    /// The flags.
    pub args: &'a AskArgs,
    /// Where sessions are kept.
    pub store: SessionStore,
    /// Where steps are printed.
    pub progress: Progress,
}

impl std::fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking").field("rpc", &self.args.rpc).finish_non_exhaustive()
    }
}

impl Asking<'_> {
    /// Connects, opens or continues a session, asks, prints.
    pub async fn run(&self, signer: PrivateKeySigner, prompt: &[u8]) -> eyre::Result<()> {
        if prompt.len() > lcai_client::MAX_PROMPT_BYTES {
            let (size, limit) = (prompt.len(), lcai_client::MAX_PROMPT_BYTES);
            return Err(ClientError::PromptTooLarge { size, limit }.into());
        }
        check_scheme(&self.args.rpc)?;
        let node =
            self.progress.step("connected", Connection::open(&self.args.rpc, self.args.chain_id)).await?;
        let genesis = genesis_hash(&node).await?;
        let user = User::new(node, signer);
        let model = user.model(&self.args.model).await?;
        user.check_funds(model.fee).await?;
        let (session, published) = self.session(&user, genesis, &model, prompt).await?;
        let answer = self.ask(&user, &session, prompt, published, model.fee).await;
        let (session, answer) = match answer {
            Err(error @ ClientError::NoAnswer { .. }) => {
                let Some(now) = self.other_worker(&user, genesis, &model, &session).await? else {
                    return Err(error.into());
                };
                self.progress.note(&format!("           {error}; asking worker {} now", now.worker));
                let answer = self.ask(&user, &now, prompt, None, model.fee).await?;
                (now, answer)
            }
            answer => (session, answer?),
        };
        self.print(&user, &session, &model, &answer)
    }

    /// The session with another worker, to which the key is handed over, once it has one. `None` where the worker that
    /// missed its deadline may still serve it, or nobody reassigns the session.
    async fn other_worker(
        &self,
        user: &User,
        genesis: B256,
        model: &ModelInfo,
        session: &UserSession,
    ) -> eyre::Result<Option<UserSession>> {
        let began = Instant::now();
        while began.elapsed() < REASSIGNED_WITHIN {
            match user.revive(session).await? {
                Some(now) if now.worker != session.worker => {
                    let d = &user.node().network().deployment;
                    self.store.save(d.chain_id, genesis, d.job_registry, user.signer(), &now)?;
                    return Ok(Some(now));
                }
                Some(_) => return Ok(None),
                None => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
        let d = &user.node().network().deployment;
        self.store.remove(d.chain_id, d.job_registry, user.account(), model.id)?;
        Ok(None)
    }

    /// The account's open session for the model, or a new one; in that case the prompt is posted at the same time.
    async fn session(
        &self,
        user: &User,
        genesis: B256,
        model: &ModelInfo,
        prompt: &[u8],
    ) -> eyre::Result<(UserSession, Option<PublishedBlob>)> {
        if !self.args.new_session
            && let Some(session) = self.stored(user, genesis, model.id).await?
        {
            self.progress
                .note(&format!("           session {} continues with worker {}", session.id, session.worker));
            return Ok((session, None));
        }
        if self.args.sortition {
            return self.session_by_sortition(user, genesis, model, prompt).await;
        }
        let offer = self.progress.step("worker drawn", user.request_session(&self.args.model)).await?;
        let key = SessionKey::random();
        let both = async {
            tokio::try_join!(user.open_session(&offer, key.clone()), user.publish_prompt(&key, prompt))
        };
        let (session, published) = self.progress.step("session opened and prompt posted", both).await?;
        let deployment = &user.node().network().deployment;
        self.store.save(deployment.chain_id, genesis, deployment.job_registry, user.signer(), &session)?;
        Ok((session, Some(published)))
    }

    async fn session_by_sortition(
        &self,
        user: &User,
        genesis: B256,
        model: &ModelInfo,
        prompt: &[u8],
    ) -> eyre::Result<(UserSession, Option<PublishedBlob>)> {
        let key = SessionKey::random();
        let both = async {
            tokio::try_join!(user.open_by_sortition(model.id, key.clone()), user.publish_prompt(&key, prompt))
        };
        let (session, published) =
            self.progress.step("session claimed and opened, prompt posted", both).await?;
        let deployment = &user.node().network().deployment;
        self.store.save(deployment.chain_id, genesis, deployment.job_registry, user.signer(), &session)?;
        Ok((session, Some(published)))
    }

    async fn stored(&self, user: &User, genesis: B256, model: ModelId) -> eyre::Result<Option<UserSession>> {
        let deployment = &user.node().network().deployment;
        let (chain, registry) = (deployment.chain_id, deployment.job_registry);
        let Some(session) = self.store.load(chain, genesis, registry, user.signer(), model)? else {
            return Ok(None);
        };
        if let Some(now) = user.revive(&session).await? {
            if now.worker != session.worker {
                self.progress.note(&format!("           session {} went to worker {}", now.id, now.worker));
                self.store.save(chain, genesis, registry, user.signer(), &now)?;
            }
            return Ok(Some(now));
        }
        self.store.remove(chain, registry, user.account(), model)?;
        Ok(None)
    }

    async fn ask(
        &self,
        user: &User,
        session: &UserSession,
        prompt: &[u8],
        published: Option<PublishedBlob>,
        fee: U256,
    ) -> Result<Answer, ClientError> {
        let show = !self.args.json;
        let mut began = Instant::now();
        let mut streaming = false;
        let mut out = std::io::stdout();
        let progress = &self.progress;
        let mut on_event = |event: Event| match event {
            Event::Submitted { job, .. } => {
                progress.done(&format!("job {job} submitted"), began.elapsed());
                began = Instant::now();
            }
            Event::Renumbered { job } => {
                progress.note(&format!("           the chain reorganised: the prompt is now job {job}"));
                streaming = false;
            }
            Event::Delta(text) => {
                if !streaming {
                    progress.done("first words", began.elapsed());
                    streaming = true;
                }
                if show {
                    // A closed pipe does not stop the check of the answer.
                    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                }
            }
            Event::Signed => {
                if show && streaming {
                    let _ = out.write_all(b"\n");
                }
                progress.done("answer complete, the worker's signature is right", began.elapsed());
            }
            Event::Settled => progress.done("settled on chain with the same hash", began.elapsed()),
        };
        user.ask(session, prompt, published, fee, &mut on_event).await
    }

    fn print(
        &self,
        user: &User,
        session: &UserSession,
        model: &ModelInfo,
        answer: &Answer,
    ) -> eyre::Result<()> {
        if self.args.json {
            let json = serde_json::json!({
                "answer": answer.text,
                "sessionId": session.id,
                "createTransaction": session.create_transaction,
                "signatureVerified": true,
                "onChainHashEqual": true,
                "receipt": answer.receipt,
            });
            let mut out = std::io::stdout();
            writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
            return Ok(());
        }
        let job = &answer.receipt.job;
        let t = &job.transactions;
        let hash = |h: Option<B256>| h.map_or_else(|| "unknown to the node".to_owned(), |h| h.to_string());
        let p = &self.progress;
        p.note("\nreceipt");
        p.note(&format!("  account           {}", user.account()));
        p.note(&format!("  job               {}", job.id));
        p.note(&format!("  session           {}", session.id));
        p.note(&format!("  worker            {}", session.worker));
        p.note(&format!("  model             {} ({})", model.name.as_deref().unwrap_or("?"), model.id));
        p.note(&format!("  fee               {} LCAI", format_ether(model.fee)));
        p.note(&format!("  prompt blob       {}", job.prompt_blob_hash));
        p.note(&format!("  response blob     {}", hash(job.response_blob_hash)));
        p.note("  transactions");
        p.note(&format!("    createSession   {}", session.create_transaction));
        p.note(&format!("    prompt blob     {}", answer.prompt_transaction));
        p.note(&format!("    submitJob       {}", hash(t.submit)));
        p.note(&format!("    acknowledgeJob  {}", hash(t.acknowledge)));
        p.note(&format!("    response blob   {}", hash(t.response_blob)));
        p.note(&format!("    completeJob     {}", hash(t.complete)));
        p.note(&format!("  chunk macs        {} right", answer.macs_checked));
        p.note("  signature         verified: the worker signed exactly this answer");
        p.note(&format!("  on-chain hash     equal: {}", answer.ciphertext_hash));
        p.note(&format!("  total             {}", human(p.elapsed())));
        Ok(())
    }
}

/// Tells apart two devnets with the same chain id.
pub(crate) async fn genesis_hash(node: &Connection) -> eyre::Result<B256> {
    let block: serde_json::Value = node
        .rpc()
        .request("eth_getBlockByNumber", rpc_params!["0x0", false])
        .await
        .map_err(|e| ClientError::Unreachable { url: node.url().to_owned(), reason: e.to_string() })?;
    block
        .get("hash")
        .and_then(|hash| hash.as_str())
        .and_then(|hash| hash.parse().ok())
        .ok_or_else(|| eyre::eyre!("the node has no genesis block"))
}
