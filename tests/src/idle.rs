//! A worker that is registered, staked, and sends heartbeats, and never works.

use alloy_primitives::Address;
use alloy_signer_local::PrivateKeySigner;
use lcai::{ask::DEFAULT_MODEL, devnet::Devnet};
use lcai_client::Connection;
use lcai_crypto::{EncryptionSecret, sign_typed};
use lcai_primitives::{
    eip712::{self, Heartbeat, HeartbeatStatus},
    ids::ModelId,
};
use lcai_rpc::api::LcaiApiClient;
use lcai_sidecar::register_worker;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// A registered account that only says that it is there.
#[allow(missing_debug_implementations)]
pub struct IdleWorker {
    /// Its account.
    pub signer: PrivateKeySigner,
    heartbeats: JoinHandle<()>,
}

impl IdleWorker {
    /// Registers with the minimum stake and begins to send heartbeats.
    pub async fn start(devnet: &Devnet, signer: PrivateKeySigner) -> Self {
        let node = Connection::open(devnet.url(), None).await.unwrap();
        let key = EncryptionSecret::random().public().to_sec1();
        let models = [DEFAULT_MODEL.to_owned()];
        register_worker(node.chain(), devnet.deployment(), &signer, &key, None, &models).await.unwrap();
        let (deployment, account) = (*devnet.deployment(), signer.clone());
        let heartbeats = tokio::spawn(async move {
            let domain = eip712::domain(deployment.chain_id, deployment.job_registry);
            for sequence in 1.. {
                let heartbeat = Heartbeat {
                    worker: account.address(),
                    sent_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
                    active_jobs: 0,
                    max_jobs: 16,
                    models: vec![ModelId::from_name(DEFAULT_MODEL)],
                    status: HeartbeatStatus::Active,
                    inference_ready: true,
                    uptime_seconds: sequence,
                    sequence,
                };
                let signature = sign_typed(&account, heartbeat.signing_hash(&domain)).unwrap().to_vec();
                // Refused until the node has read the registration.
                let _ = node.rpc().heartbeat(heartbeat, signature.into()).await;
                tokio::time::sleep(Duration::from_millis(1_100)).await;
            }
        });
        Self { signer, heartbeats }
    }

    /// Its account.
    pub fn address(&self) -> Address {
        self.signer.address()
    }
}

impl Drop for IdleWorker {
    fn drop(&mut self) {
        self.heartbeats.abort();
    }
}
