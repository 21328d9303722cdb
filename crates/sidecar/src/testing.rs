//! A small model of JobRegistry, for tests: sessions and jobs per block, with events and reads as the contract gives.

mod sim;

pub(crate) use sim::{FrameLog, Sim, TestBackend};

use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use lcai_crypto::recover_typed;
use lcai_host::Call;
use lcai_primitives::{
    contracts::{self, AIConfig, Deployment, JobRegistry},
    eip712::{self, CompleteJob},
    params::ChainParams,
};
use std::collections::BTreeMap;

pub(crate) const ME: Address = address!("00000000000000000000000000000000000000a1");
pub(crate) const OTHER: Address = address!("00000000000000000000000000000000000000a2");
pub(crate) const USER: Address = address!("00000000000000000000000000000000000000b1");
pub(crate) const ACK_TIMEOUT: u64 = 90;
pub(crate) const COMPLETION_TIMEOUT: u64 = 120;
pub(crate) const DISPUTE_WINDOW: u64 = 30;
/// Seconds after which an idle session takes no more jobs.
pub(crate) const SESSION_TIMEOUT: u64 = 40;

pub(crate) fn deployment() -> Deployment {
    Deployment {
        chain_id: 8200,
        worker_registry: Address::repeat_byte(1),
        ai_config: Address::repeat_byte(2),
        job_registry: Address::repeat_byte(3),
        session_manager: None,
        reputation_registry: None,
        canary_ledger: None,
    }
}

/// Something a block's transaction does.
#[derive(Debug, Clone)]
pub(crate) enum Tx {
    Create {
        worker: Address,
    },
    Submit {
        session: u64,
        prompt: B256,
    },
    Acknowledge {
        job: u64,
    },
    Complete {
        job: u64,
        blob: B256,
        hash: B256,
    },
    /// `completeJobWithBlob`, by whoever carries the worker's signature.
    CompleteSigned {
        job: u64,
        blob: B256,
        hash: B256,
        signature: Bytes,
    },
    Dispute {
        job: u64,
    },
    Resolve {
        job: u64,
        guilty: bool,
    },
    Release {
        job: u64,
    },
    Reassign {
        session: u64,
        worker: Address,
    },
    UpdateKey {
        session: u64,
        key: Bytes,
    },
    TimeOut {
        job: u64,
    },
}

#[derive(Clone, Default)]
pub(crate) struct Registry {
    /// Wrapped for the worker in every session; a marker where no key matters.
    pub(crate) enc_worker_key: Option<Bytes>,
    pub(crate) sessions: BTreeMap<u64, contracts::Session>,
    pub(crate) jobs: BTreeMap<u64, contracts::Job>,
}

impl Registry {
    /// Executes a transaction; its log, unless it reverts.
    pub(crate) fn run(&mut self, tx: &Tx, number: u64, now: u64) -> Option<(Vec<B256>, Bytes)> {
        match *tx {
            Tx::CompleteSigned { job, blob, hash, ref signature } => {
                let record = self.jobs.get(&job)?;
                let message = CompleteJob {
                    jobId: U256::from(job),
                    sessionId: record.sessionId,
                    promptBlobHash: record.promptBlobHash,
                    responseBlobHash: blob,
                    responseCiphertextHash: hash,
                };
                let domain = eip712::domain(8200, deployment().job_registry);
                let signer = recover_typed(message.signing_hash(&domain), signature).ok()?;
                if signer != record.worker {
                    return None;
                }
                self.run(&Tx::Complete { job, blob, hash }, number, now)
            }
            Tx::Create { worker } => {
                let id = self.sessions.len() as u64 + 1;
                let session = contracts::Session {
                    user: USER,
                    modelId: B256::repeat_byte(9),
                    worker,
                    encWorkerKey: self.enc_worker_key.clone().unwrap_or_else(|| vec![id as u8; 125].into()),
                    ..Default::default()
                };
                let event = JobRegistry::SessionCreated {
                    sessionId: U256::from(id),
                    user: USER,
                    modelId: session.modelId,
                    worker,
                    encWorkerKey: session.encWorkerKey.clone(),
                    encDisputerKey: Bytes::new(),
                };
                self.sessions.insert(id, session);
                Some(parts(&event))
            }
            Tx::Submit { session, prompt } => {
                let worker = self.sessions.get(&session)?.worker;
                let id = self.jobs.len() as u64 + 1;
                let job = contracts::Job {
                    sessionId: U256::from(session),
                    worker,
                    escrowedFee: U256::from(100),
                    promptBlobHash: prompt,
                    deadline: U256::from(now + ACK_TIMEOUT),
                    submitBlockNumber: U256::from(number),
                    ..Default::default()
                };
                self.jobs.insert(id, job);
                let (job_id, session_id) = (U256::from(id), U256::from(session));
                Some(parts(&JobRegistry::JobSubmitted { jobId: job_id, sessionId: session_id, worker }))
            }
            Tx::Acknowledge { job } => {
                let record = self.jobs.get_mut(&job).filter(|j| j.state == 0)?;
                record.state = 1;
                record.deadline = U256::from(now + COMPLETION_TIMEOUT);
                Some(parts(&JobRegistry::JobAcknowledged { jobId: U256::from(job), worker: record.worker }))
            }
            Tx::Complete { job, blob, hash } => {
                let record = self.jobs.get_mut(&job).filter(|j| j.state == 1)?;
                record.state = 2;
                record.responseBlobHash = blob;
                record.responseCiphertextHash = hash;
                record.completionBlockNumber = U256::from(number);
                Some(parts(&JobRegistry::JobCompleted {
                    jobId: U256::from(job),
                    worker: record.worker,
                    responseBlobHash: blob,
                    responseCiphertextHash: hash,
                }))
            }
            Tx::Dispute { job } => {
                self.jobs.get_mut(&job).filter(|j| j.state == 2)?.state = 4;
                Some(parts(&JobRegistry::DisputeCreated { jobId: U256::from(job), disputer: USER }))
            }
            Tx::Resolve { job, guilty } => {
                self.jobs.get_mut(&job).filter(|j| j.state == 4)?.state = 5;
                let event = JobRegistry::DisputeResolved {
                    jobId: U256::from(job),
                    workerGuilty: guilty,
                    similarityScore: U256::ZERO,
                };
                Some(parts(&event))
            }
            Tx::Release { job } => {
                self.jobs.get_mut(&job).filter(|j| j.state == 2 || j.state == 5)?.state = 6;
                let event = JobRegistry::JobReleased {
                    jobId: U256::from(job),
                    workerShare: U256::from(80),
                    protocolShare: U256::from(15),
                    feePoolShare: U256::from(5),
                };
                Some(parts(&event))
            }
            Tx::Reassign { session, worker } => {
                let record = self.sessions.get_mut(&session)?;
                record.worker = worker;
                record.status = 1;
                record.encWorkerKey = Bytes::new();
                Some(parts(&JobRegistry::SessionReassigned {
                    sessionId: U256::from(session),
                    newWorker: worker,
                }))
            }
            Tx::UpdateKey { session, ref key } => {
                let record = self.sessions.get_mut(&session)?;
                record.status = 0;
                record.encWorkerKey = key.clone();
                Some(parts(&JobRegistry::SessionKeyUpdated {
                    sessionId: U256::from(session),
                    encWorkerKey: key.clone(),
                    encDisputerKey: Bytes::new(),
                }))
            }
            Tx::TimeOut { job } => {
                let record = self.jobs.get_mut(&job).filter(|j| j.state < 2)?;
                record.state = 3;
                let (job_id, worker) = (U256::from(job), record.worker);
                Some(parts(&JobRegistry::JobTimedOut { jobId: job_id, worker, slashAmount: U256::ZERO }))
            }
        }
    }

    pub(crate) fn call(&self, call: &Call) -> Option<Bytes> {
        if let Ok(call) = JobRegistry::getJobCall::abi_decode(&call.input) {
            return Some(self.jobs.get(&u64::try_from(call.jobId).ok()?)?.abi_encode().into());
        }
        if let Ok(call) = JobRegistry::getSessionCall::abi_decode(&call.input) {
            return Some(self.sessions.get(&u64::try_from(call.sessionId).ok()?)?.abi_encode().into());
        }
        if AIConfig::getModelMaxOutputTokensCall::abi_decode(&call.input).is_ok() {
            return Some(U256::from(64).abi_encode().into());
        }
        let index = ChainParams::calls().iter().position(|(_, input)| *input == *call.input)?;
        let value = match index {
            0 => ACK_TIMEOUT,
            1 => COMPLETION_TIMEOUT,
            2 => DISPUTE_WINDOW,
            4 => SESSION_TIMEOUT,
            _ => 1,
        };
        Some(U256::from(value).abi_encode().into())
    }
}

fn parts(event: &impl SolEvent) -> (Vec<B256>, Bytes) {
    (event.encode_topics().into_iter().map(|topic| topic.0).collect(), event.encode_data().into())
}

/// A prompt for tests that open none.
pub(crate) fn prompt(byte: u8) -> B256 {
    B256::repeat_byte(byte)
}

/// `completeJob` for tests that make no answer.
pub(crate) fn complete(job: u64, answer: u8) -> Tx {
    Tx::Complete { job, blob: B256::repeat_byte(answer), hash: keccak256([answer]) }
}
