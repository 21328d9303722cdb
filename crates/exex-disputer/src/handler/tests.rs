//! The effects against a scripted chain with real blobs, real keys, and a model that answers from a list.

mod canaries;
mod crashes;
mod secrets;

use super::*;
use crate::{
    plan::DisputerPlan,
    records::{AnswerRow, PriorRef},
    reexecution::ReexecutionParts,
    testing::Script,
    verdict::{Ground, Ladder, RungKind},
};
use alloy_consensus::{
    EthereumTxEnvelope, Transaction, TxEip4844WithSidecar, TxEnvelope, transaction::SignerRecoverable,
};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::keccak256;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolError, SolValue};
use lcai_blob::{Blob, FallbackSource, HostBlobs};
use lcai_crypto::{EncryptionSecret, SessionKey, seal, wrap};
use lcai_host::{
    BlockRef, EffectDepth, HostError, Journal, LaneClass, LaneConfig, OnRepeat,
    testing::{ScriptedHost, identity},
};
use lcai_primitives::{
    contracts::CanaryLedger,
    ids::{JobId, ModelId, SessionId, Subject},
};
use std::collections::BTreeMap;

const REGISTRY: Address = Address::repeat_byte(4);
const CONFIG: Address = Address::repeat_byte(3);
const LEDGER: Address = Address::repeat_byte(7);
const USER: Address = Address::repeat_byte(9);
const EPOCH: u64 = 12;
const NOW: u64 = 1_700_000_100;

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> u64 {
        NOW
    }
}

fn deployment() -> Deployment {
    Deployment {
        chain_id: 8200,
        worker_registry: Address::repeat_byte(2),
        ai_config: CONFIG,
        job_registry: REGISTRY,
        session_manager: None,
        reputation_registry: None,
        canary_ledger: Some(LEDGER),
    }
}

fn signer(byte: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap()
}

/// What the chain shows of canaries.
#[derive(Debug, Default)]
struct Ledger {
    epoch: contracts::CanaryEpoch,
    commits: u32,
    reveals: Vec<Vec<U256>>,
    /// Who filed with what bond.
    disputes: Vec<(Address, U256)>,
}

/// A chain on which one job is disputed.
struct Court {
    host: ScriptedHost,
    job: Arc<Mutex<contracts::Job>>,
    /// Verdicts that reached the chain.
    rulings: Arc<Mutex<Vec<JobRegistry::resolveDisputeCall>>>,
    /// CanaryLedger and the disputes that reached the chain.
    ledger: Arc<Mutex<Ledger>>,
    escrow: EncryptionSecret,
    escrow_since: u64,
    key: SessionKey,
    case: Case,
    mining: tokio::task::JoinHandle<()>,
}

impl Drop for Court {
    fn drop(&mut self) {
        self.mining.abort();
    }
}

impl Court {
    /// The worker claims `claimed` as its answer to "q".
    fn new(claimed: &str) -> Self {
        let host = ScriptedHost::new(8200);
        let (escrow, key) = (EncryptionSecret::random(), SessionKey::random());
        let sealed = seal(&key, claimed.as_bytes()).unwrap();
        let (prompt, answer) = (put(&host, &seal(&key, b"q").unwrap()), put(&host, &sealed));
        let case = Case {
            subject: Subject {
                chain_id: 8200,
                contract: REGISTRY,
                job_id: JobId(7),
                session_id: SessionId(3),
                prompt_blob_hash: prompt,
                submit_tx_hash: B256::repeat_byte(5),
            },
            model: ModelId::from_name("m"),
            user: USER,
            by_user: true,
            canary: false,
            ours: false,
            escrow: vec![wrap(&key, &escrow.public()).unwrap().to_vec().into()],
            escrowed_at: NOW - 100,
            submit_block: 100,
            answer: AnswerRow { block: 101, blob_hash: answer, ciphertext_hash: keccak256(&sealed) },
            unpublished: false,
            prior: Vec::new(),
            threshold_bps: 8_500,
            deadline: NOW + 60,
        };
        let job = contracts::Job {
            sessionId: case.subject.session_id.word(),
            state: JobState::Disputed.into(),
            promptBlobHash: prompt,
            responseBlobHash: answer,
            responseCiphertextHash: case.answer.ciphertext_hash,
            ..contracts::Job::default()
        };
        let (job, rulings) = (Arc::new(Mutex::new(job)), Arc::new(Mutex::new(Vec::new())));
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (read, epochs) = (Arc::clone(&job), Arc::clone(&ledger));
        host.on_call(move |call, _| answer_call(call, &read.lock(), &epochs.lock()));
        let (write, log, epochs) = (Arc::clone(&job), Arc::clone(&rulings), Arc::clone(&ledger));
        let (chain, mut nonces) = (host.clone(), BTreeMap::new());
        host.on_send(move |raw| {
            spend_nonce(&chain, &mut nonces, raw)?;
            take(raw, &mut write.lock(), &mut log.lock(), &mut epochs.lock());
            Ok(())
        });
        let miner = host.clone();
        let mining = tokio::spawn(async move {
            loop {
                miner.mine_empty(1);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { host, job, rulings, ledger, escrow, escrow_since: 0, key, case, mining }
    }

    /// A disputer's node with a journal of its own, or one it had before.
    fn node(&self, journal: &Arc<Journal>, script: Script) -> DisputeHandler {
        self.node_with(journal, script, 2)
    }

    /// As [`Self::node`], with another blob account.
    fn node_with(&self, journal: &Arc<Journal>, script: Script, blob_key: u8) -> DisputeHandler {
        self.node_of(journal, Arc::new(script), blob_key)
    }

    /// As [`Self::node_with`], with any backend.
    fn node_of(
        &self,
        journal: &Arc<Journal>,
        backend: Arc<dyn lcai_inference::Backend>,
        blob_key: u8,
    ) -> DisputeHandler {
        self.node_over(journal, backend, blob_key, self.host.client())
    }

    /// As [`Self::node_of`], with another way to the chain.
    fn node_over(
        &self,
        journal: &Arc<Journal>,
        backend: Arc<dyn lcai_inference::Backend>,
        blob_key: u8,
        client: Arc<dyn HostClient>,
    ) -> DisputeHandler {
        let sources: Vec<Arc<dyn lcai_blob::BlobSource>> = vec![Arc::new(HostBlobs::new(client.clone()))];
        let reexecution = Reexecution::new(ReexecutionParts {
            deployment: deployment(),
            escrow: EncryptionSecret::from_slice(self.escrow.expose().as_slice()).unwrap(),
            escrow_since: self.escrow_since,
            ladder: Ladder::new(Arc::clone(&backend), None),
            backend,
            blobs: Arc::new(FallbackSource::new(sources)),
            client: client.clone(),
            models: vec!["m".to_owned()],
            reorg_depth: 4,
            parallel: 1,
        });
        let lane =
            |class, key| Arc::new(TxLane::with_config(client.clone(), signer(key), lane_config(class)));
        DisputeHandler::new(DisputeParts {
            deployment: deployment(),
            reexecution: Arc::new(reexecution),
            verdicts: Verdicts::new(journal.records("verdicts")),
            lane: lane(LaneClass::Ordinary, 1),
            blobs: lane(LaneClass::Blob, blob_key),
            seeds: Some(Seeds::new(journal.records("canary seeds"))),
            filer: Arc::new(OnceLock::new()),
            osaka_time: Some(0),
            clock: Arc::new(FixedClock),
        })
    }

    async fn run(&self, node: &DisputeHandler, action: &str) -> EffectOutcome {
        node.execute(&self.intent(action), EffectContext::new(self.host.client())).await
    }

    /// An effect about an epoch of canaries.
    async fn run_epoch<T: serde::Serialize>(
        &self,
        node: &DisputeHandler,
        action: &str,
        task: &T,
    ) -> EffectOutcome {
        let intent = Intent { payload: postcard::to_stdvec(task).unwrap(), ..self.intent(action) };
        node.execute(&intent, EffectContext::new(self.host.client())).await
    }

    fn intent(&self, action: &str) -> Intent {
        Intent {
            subject: self.case.subject.id(),
            action: action.to_owned(),
            origin: BlockRef { number: 1, hash: B256::ZERO },
            depth: EffectDepth::Head,
            on_repeat: OnRepeat::Again,
            not_after: None,
            payload: postcard::to_stdvec(&self.case).unwrap(),
        }
    }

    async fn judge(&self, node: &DisputeHandler) -> Evidence {
        assert_eq!(self.run(node, action::JUDGE).await, EffectOutcome::Done(Vec::new()));
        let judged = node.parts.verdicts.judged(&self.case.subject, self.case.answer.ciphertext_hash).await;
        match judged.unwrap().unwrap() {
            Judged::Decided(bytes) => Evidence::decode(&bytes).unwrap(),
            Judged::Undecided(reason) => panic!("undecided: {reason}"),
        }
    }

    fn rulings(&self) -> Vec<(bool, u64, B256)> {
        let call = |c: &JobRegistry::resolveDisputeCall| {
            (c.workerGuilty, c._similarityScore.to::<u64>(), c.reExecutionBlobHash)
        };
        self.rulings.lock().iter().map(call).collect()
    }
}

fn lane_config(class: LaneClass) -> LaneConfig {
    LaneConfig { poll: Duration::from_millis(20), ..LaneConfig::new(class) }
}

fn put(host: &ScriptedHost, payload: &[u8]) -> B256 {
    let blob: Box<Blob> = encode(payload).unwrap();
    let hash = blob_versioned_hash(&blob).unwrap();
    host.put_blob(hash, Bytes::copy_from_slice(blob.as_slice()));
    hash
}

fn answer_call(call: &Call, job: &contracts::Job, ledger: &Ledger) -> Result<Bytes, Bytes> {
    let selector: [u8; 4] = call.input[..4].try_into().unwrap();
    let epoch = U256::from(EPOCH);
    Ok(match selector {
        CanaryLedger::getEpochCall::SELECTOR => ledger.epoch.abi_encode().into(),
        CanaryLedger::commitCall::SELECTOR if !ledger.epoch.root.is_zero() => {
            return Err(CanaryLedger::AlreadyCommitted { epoch }.abi_encode().into());
        }
        CanaryLedger::revealCall::SELECTOR if ledger.epoch.revealedAt != 0 => {
            return Err(CanaryLedger::AlreadyRevealed { epoch }.abi_encode().into());
        }
        JobRegistry::disputeJobCall::SELECTOR if job.state != u8::from(JobState::Completed) => {
            return Err(in_state(JobState::Completed, job.state));
        }
        JobRegistry::getJobCall::SELECTOR => job.abi_encode().into(),
        AIConfig::getDisputerAddressCall::SELECTOR => signer(1).address().abi_encode().into(),
        // What a contract does with a second verdict.
        JobRegistry::resolveDisputeCall::SELECTOR if job.state != u8::from(JobState::Disputed) => {
            return Err(in_state(JobState::Disputed, job.state));
        }
        _ => U256::from(64).abi_encode().into(),
    })
}

/// As a chain does, if every transaction were included at once.
fn spend_nonce(
    host: &ScriptedHost,
    nonces: &mut BTreeMap<Address, u64>,
    raw: &Bytes,
) -> Result<(), HostError> {
    let transaction: EthereumTxEnvelope<TxEip4844WithSidecar> =
        Decodable2718::decode_2718(&mut raw.as_ref()).unwrap();
    let sender = transaction.recover_signer().unwrap();
    if transaction.nonce() < nonces.get(&sender).copied().unwrap_or_default() {
        let method = "eth_sendRawTransaction".into();
        return Err(HostError::Rejected { method, code: -32000, message: "nonce too low".into() });
    }
    host.set_nonce(sender, transaction.nonce() + 1);
    nonces.insert(sender, transaction.nonce() + 1);
    Ok(())
}

fn in_state(expected: JobState, actual: u8) -> Bytes {
    JobRegistry::JobNotInState { jobId: U256::from(7), expected: expected.into(), actual }.abi_encode().into()
}

fn take(
    raw: &Bytes,
    job: &mut contracts::Job,
    rulings: &mut Vec<JobRegistry::resolveDisputeCall>,
    ledger: &mut Ledger,
) {
    let Ok(transaction) = TxEnvelope::decode_2718(&mut raw.as_ref()) else { return };
    if JobRegistry::disputeJobCall::abi_decode(transaction.input()).is_ok() {
        let filer = transaction.recover_signer().unwrap();
        ledger.disputes.push((filer, transaction.value()));
        (job.state, job.disputeFiler) = (JobState::Disputed.into(), filer);
    } else if let Ok(call) = CanaryLedger::commitCall::abi_decode(transaction.input()) {
        (ledger.epoch.root, ledger.commits) = (call.root, ledger.commits + 1);
    } else if let Ok(call) = CanaryLedger::revealCall::abi_decode(transaction.input()) {
        ledger.epoch.revealedAt = 1;
        ledger.reveals.push(call.jobIds);
    }
    let Ok(call) = JobRegistry::resolveDisputeCall::abi_decode(transaction.input()) else { return };
    if job.state == u8::from(JobState::Disputed) {
        job.state = JobState::Resolved.into();
        job.reExecutionBlobHash = call.reExecutionBlobHash;
        rulings.push(call);
    }
}

fn journal() -> Arc<Journal> {
    Journal::in_memory(identity()).unwrap()
}

fn says(answer: &str) -> Script {
    Script { answers: BTreeMap::from([("q".to_owned(), answer.to_owned())]), ..Script::default() }
}

fn comparison(evidence: &Evidence) -> &crate::verdict::Comparison {
    match &evidence.ground {
        Ground::Compared(comparison) => comparison,
        other => panic!("decided by {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_answer_is_ruled_on_once_with_its_evidence_on_chain() {
    let (court, journal) = (Court::new("The capital is Lyon."), journal());
    let node = court.node(&journal, says("It is Paris, of course."));
    assert!(matches!(court.run(&node, action::RESOLVE).await, EffectOutcome::Retry { .. }), "not judged yet");
    let evidence = court.judge(&node).await;
    assert!(evidence.guilty);
    assert!(comparison(&evidence).is_about(
        &court.key,
        JobId(7),
        "The capital is Lyon.",
        "It is Paris, of course."
    ));
    assert!(court.rulings().is_empty(), "judging sends nothing");
    assert!(matches!(court.run(&node, action::RESOLVE).await, EffectOutcome::Done(_)));
    let (posted, _) = seal_blob(&evidence.encode(), SidecarForm::Eip7594).unwrap();
    assert_eq!(court.rulings(), [(true, u64::from(evidence.score.bps()), posted)]);
    // The hurried intent of the same dispute finds it done.
    assert!(matches!(court.run(&node, action::RESOLVE_LATE).await, EffectOutcome::Done(_)));
    assert_eq!(court.rulings().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_own_answer_wins() {
    let (court, journal) = (Court::new("Paris."), journal());
    let node = court.node(&journal, says("Paris."));
    let evidence = court.judge(&node).await;
    assert!(!evidence.guilty);
    assert_eq!(comparison(&evidence).judgement.decided_by, RungKind::Bytes);
    assert!(matches!(court.run(&node, action::RESOLVE).await, EffectOutcome::Done(_)));
    let (guilty, score, _) = court.rulings()[0];
    assert_eq!((guilty, score), (false, 10_000));
}

/// Whatever moment the node dies at, one verdict takes hold and the node takes it for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_one_verdict() {
    for step in 0..5 {
        let (court, journal) = (Court::new("Lyon."), journal());
        let node = court.node(&journal, says("Paris."));
        let evidence = court.judge(&node).await;
        let verdicts = &node.parts.verdicts;
        if step >= 1 {
            verdicts.sign(&evidence).await.unwrap();
        }
        let client = court.host.client();
        if step >= 2 {
            let posted = node.publish(&evidence, client.as_ref()).await.unwrap();
            if step >= 3 {
                verdicts.mark_sent(&court.case.subject, posted.versioned_hash).await.unwrap();
            }
            if step >= 4 {
                node.rule(&court.case, &evidence, posted.versioned_hash).await.unwrap();
            }
        }
        drop(node);
        // It starts again, and its model says something else now: what was judged stands.
        let node = court.node(&journal, says("Rome."));
        assert!(matches!(court.run(&node, action::JUDGE).await, EffectOutcome::Done(_)));
        let again = court.run(&node, action::RESOLVE).await;
        assert!(matches!(again, EffectOutcome::Done(_)), "step {step}: {again:?}");
        let (posted, _) = seal_blob(&evidence.encode(), SidecarForm::Eip7594).unwrap();
        assert_eq!(court.rulings(), [(true, u64::from(evidence.score.bps()), posted)], "step {step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_with_the_same_key_stops_loudly() {
    let court = Court::new("Lyon.");
    let (first, second) = (journal(), journal());
    let (one, two) = (court.node(&first, says("Paris.")), court.node(&second, says("Paris.")));
    court.judge(&one).await;
    court.judge(&two).await;
    assert!(matches!(court.run(&one, action::RESOLVE).await, EffectOutcome::Done(_)));
    let outcome = court.run(&two, action::RESOLVE).await;
    let EffectOutcome::Halt { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("second one"), "{reason}");
    assert_eq!(court.rulings().len(), 1);
}

/// Both saw the dispute open; the second one's verdict would revert, so it was never its own.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_overtaken_while_sending_stops_too() {
    let court = Court::new("Lyon.");
    let (first, second) = (journal(), journal());
    let (one, two) = (court.node(&first, says("Paris.")), court.node_with(&second, says("Paris."), 3));
    let evidence = court.judge(&two).await;
    let client = court.host.client();
    let posted = two.publish(&evidence, client.as_ref()).await.unwrap();
    court.judge(&one).await;
    assert!(matches!(court.run(&one, action::RESOLVE).await, EffectOutcome::Done(_)));
    let overtaken = two.rule(&court.case, &evidence, posted.versioned_hash).await;
    assert!(matches!(overtaken, Err(EffectOutcome::Retry { .. })), "{overtaken:?}");
    assert!(matches!(court.run(&two, action::RESOLVE).await, EffectOutcome::Halt { .. }));
    assert_eq!(court.rulings().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decided_is_not_guessed() {
    // A model that is not served here.
    let mut court = Court::new("Lyon.");
    court.case.model = ModelId::from_name("n");
    undecided(&court, "not served here").await;

    // An answer under another key than the prompt's.
    let mut court = Court::new("Lyon.");
    let sealed = seal(&SessionKey::random(), b"Lyon.").unwrap();
    court.case.answer.ciphertext_hash = keccak256(&sealed);
    court.case.answer.blob_hash = put(&court.host, &sealed);
    court.job.lock().responseCiphertextHash = court.case.answer.ciphertext_hash;
    undecided(&court, "does not open under the session key").await;
}

async fn undecided(court: &Court, expected: &str) {
    let journal = journal();
    let node = court.node(&journal, says("Paris."));
    assert!(matches!(court.run(&node, action::JUDGE).await, EffectOutcome::Done(_)));
    let outcome = court.run(&node, action::RESOLVE).await;
    let EffectOutcome::Abandon { reason } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains(expected), "{reason}");
    assert!(court.rulings().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_time_gives_no_verdict() {
    let (mut court, journal) = (Court::new("Lyon."), journal());
    court.case.deadline = NOW + 1;
    let slow = Script { delay: Duration::from_secs(3), ..says("Paris.") };
    let node = court.node(&journal, slow);
    assert!(matches!(court.run(&node, action::JUDGE).await, EffectOutcome::Done(_)));
    assert!(matches!(court.run(&node, action::RESOLVE).await, EffectOutcome::Abandon { .. }));
    court.case.deadline = NOW;
    let node = court.node(&self::journal(), says("Paris."));
    assert!(matches!(court.run(&node, action::JUDGE).await, EffectOutcome::Abandon { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_not_what_was_committed_convicts_without_any_key() {
    let (mut court, journal) = (Court::new("Paris."), journal());
    court.case.answer.ciphertext_hash = B256::repeat_byte(1);
    court.job.lock().responseCiphertextHash = court.case.answer.ciphertext_hash;
    let node = court.node(&journal, says("Paris."));
    let evidence = court.judge(&node).await;
    assert_eq!((evidence.guilty, &evidence.ground), (true, &Ground::ResponseNotAsCommitted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_the_escrowed_key_does_not_open_loses_its_users_dispute() {
    let (mut court, journal) = (Court::new("Lyon."), journal());
    let other = SessionKey::random();
    court.case.escrow = vec![wrap(&other, &court.escrow.public()).unwrap().to_vec().into()];
    let node = court.node(&journal, says("Paris."));
    let evidence = court.judge(&node).await;
    assert_eq!((evidence.guilty, &evidence.ground), (false, &Ground::PromptNotAsEscrowed));
}

/// A dispute that defaults gives fee and bond back: whoever escrowed nothing would have asked for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_escrows_nothing_or_noise_loses_its_dispute() {
    for escrow in [Vec::new(), vec![Bytes::from(vec![7; 125])], vec![Bytes::from_static(b"short")]] {
        let mut court = Court::new("Lyon.");
        court.case.escrow = escrow;
        let node = court.node(&journal(), says("Paris."));
        let evidence = court.judge(&node).await;
        assert_eq!((evidence.guilty, &evidence.ground), (false, &Ground::PromptNotAsEscrowed));
        assert_eq!(evidence.score, crate::verdict::Score::FULL);
        // Without the user nobody is to blame.
        court.case.by_user = false;
        undecided(&court, "no session key").await;
    }
}

/// What does not open may have been wrapped for the key that this one replaced; nothing at all was wrapped for none.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_wrapped_before_the_escrow_key_was_replaced_is_undecided() {
    let mut court = Court::new("Lyon.");
    court.escrow_since = court.case.escrowed_at + 1;
    court.case.escrow = vec![Bytes::from(vec![7; 125])];
    undecided(&court, "no session key").await;
    court.case.escrow.clear();
    let evidence = court.judge(&court.node(&journal(), says("Paris."))).await;
    assert_eq!((evidence.guilty, &evidence.ground), (false, &Ground::PromptNotAsEscrowed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_answered_under_another_key_convicts() {
    let mut court = Court::new("Lyon.");
    let sealed = seal(&SessionKey::random(), b"Lyon.").unwrap();
    court.case.answer.ciphertext_hash = keccak256(&sealed);
    court.case.answer.blob_hash = put(&court.host, &sealed);
    court.job.lock().responseCiphertextHash = court.case.answer.ciphertext_hash;
    (court.case.ours, court.case.by_user) = (true, false);
    let evidence = court.judge(&court.node(&journal(), says("Paris."))).await;
    assert_eq!((evidence.guilty, &evidence.ground), (true, &Ground::AnswerNotUnderKey));
    assert_eq!(evidence.score, crate::verdict::Score::ZERO);
    assert_eq!(Evidence::decode(&evidence.encode()).unwrap(), evidence);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_never_published_convicts() {
    let (mut court, journal) = (Court::new("Lyon."), journal());
    court.case.answer.blob_hash = B256::repeat_byte(1);
    let node = court.node(&journal, says("Paris."));
    assert!(matches!(court.run(&node, action::JUDGE).await, EffectOutcome::Retry { .. }), "it may come");
    court.case.unpublished = true;
    assert_eq!(court.run(&node, action::JUDGE_UNPUBLISHED).await, EffectOutcome::Done(Vec::new()));
    // What waited for the blob finds the verdict.
    court.case.unpublished = false;
    let evidence = court.judge(&node).await;
    assert_eq!((evidence.guilty, &evidence.ground), (true, &Ground::ResponseNeverPublished));
}

/// A blob that somebody has was published somehow: the answer counts.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_there_after_all_is_compared() {
    let mut court = Court::new("Paris.");
    court.case.unpublished = true;
    let evidence = court.judge(&court.node(&journal(), says("Paris."))).await;
    assert!(!evidence.guilty);
    assert_eq!(comparison(&evidence).judgement.decided_by, RungKind::Bytes);
}

/// The worker answered before a reorg moved the earlier answer in front of its job.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_the_history_of_a_recent_fork_is_an_honest_answer() {
    let (mut court, journal) = (Court::new("to the short history"), journal());
    let sealed = |text: &str| seal(&court.key, text.as_bytes()).unwrap();
    let prior = PriorRef {
        job_id: JobId(6),
        submit_block: 50,
        prompt_blob_hash: put(&court.host, &sealed("before")),
        response: Some((put(&court.host, &sealed("said")), 99)),
    };
    court.case.prior = vec![prior];
    let long = "user: before | assistant: said | user: q".to_owned();
    let short = "user: before | user: q".to_owned();
    let answers = BTreeMap::from([
        (long, "to the long history".to_owned()),
        (short, "to the short history".to_owned()),
    ]);
    let script = Script { answers, ..Script::default() };
    let node = court.node(&journal, script.clone());
    let evidence = court.judge(&node).await;
    let found = comparison(&evidence);
    assert_eq!((evidence.guilty, found.history, found.histories), (false, 1, 2));

    // The same answer where no reorg can have moved anything.
    court.case.prior = vec![PriorRef { response: prior.response.map(|(hash, _)| (hash, 80)), ..prior }];
    let node = court.node(&self::journal(), script);
    let evidence = court.judge(&node).await;
    assert!(evidence.guilty);
    assert_eq!(comparison(&evidence).histories, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_blob_is_waited_for() {
    let (mut court, journal) = (Court::new("Lyon."), journal());
    court.case.answer.blob_hash = B256::repeat_byte(1);
    let node = court.node(&journal, says("Paris."));
    let outcome = court.run(&node, action::JUDGE).await;
    assert!(matches!(outcome, EffectOutcome::Retry { .. }), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispute_that_ended_otherwise_is_left_alone() {
    let (court, journal) = (Court::new("Lyon."), journal());
    let node = court.node(&journal, says("Paris."));
    court.judge(&node).await;
    court.job.lock().state = JobState::Resolved.into();
    let outcome = court.run(&node, action::RESOLVE).await;
    assert!(matches!(outcome, EffectOutcome::Abandon { .. }), "{outcome:?}");
    // Another job under the number.
    court.job.lock().promptBlobHash = B256::repeat_byte(1);
    assert!(matches!(court.run(&node, action::RESOLVE).await, EffectOutcome::Retry { .. }));
    assert!(court.rulings().is_empty());
}

#[test]
fn the_plan_watches_what_the_core_follows() {
    let registry = deployment().worker_registry;
    assert_eq!(DisputerPlan::watched(&deployment()), [CONFIG, REGISTRY, registry, LEDGER]);
}
