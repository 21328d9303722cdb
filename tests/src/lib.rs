//! What the scenarios share: a devnet, users on it, and a proxy that keeps everything that passes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod governance;
pub mod idle;
pub mod keeper;
pub mod leaks;
pub mod network;
pub mod ports;
pub mod proxy;
pub mod reth;
pub mod scene;

use alloy_primitives::{Address, U256};
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::core::client::ClientT;
use lcai::{
    ask::DEFAULT_MODEL,
    devnet::{Devnet, DevnetConfig},
    progress::Progress,
};
use lcai_client::{Answer, Connection, Event, User, UserSession};
use lcai_crypto::SessionKey;
use lcai_primitives::contracts::Deployment;
use lcai_rpc::{api::LcaiApiClient, types::SessionOffer};
use serde_json::{Value, json};
use std::{future::Future, time::Duration};

/// Runs a scenario on the runtime that the binaries use.
pub fn run(scenario: impl Future<Output = ()>) {
    lcai::runtime().unwrap().block_on(scenario);
}

/// Starts a devnet. Its steps go to standard error, where they help when a scenario fails.
pub async fn devnet(config: DevnetConfig) -> Devnet {
    lcai::logging::init(None);
    Devnet::start(config, &Progress::new(false)).await.unwrap()
}

/// What a scenario needs of a network, whichever client it runs on.
pub trait Network {
    /// Where `eth_*` and `lcai_*` are, over WebSocket.
    fn url(&self) -> &str;
    /// The contracts.
    fn deployment(&self) -> &Deployment;
    /// The workers' addresses.
    fn workers(&self) -> Vec<Address>;
    /// One of the funded accounts.
    fn user(&self, index: usize) -> PrivateKeySigner;
}

/// A network whose operator is at hand.
pub trait Operated: Network {
    /// What the node's operator is told: the whole JSON-RPC answer.
    fn operator(&self, method: &str, params: Value) -> impl Future<Output = Value>;
}

impl Network for Devnet {
    fn url(&self) -> &str {
        Self::url(self)
    }

    fn deployment(&self) -> &Deployment {
        Self::deployment(self)
    }

    fn workers(&self) -> Vec<Address> {
        Self::workers(self)
    }

    fn user(&self, index: usize) -> PrivateKeySigner {
        Self::user(self, index).unwrap().clone()
    }
}

impl Operated for Devnet {
    async fn operator(&self, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let (answer, _) = self.node().operator_module().raw_json_request(&call, 1).await.unwrap();
        serde_json::from_str(answer.get()).unwrap()
    }
}

/// An account on the network, over a connection of its own.
pub async fn user(network: &impl Network, signer: PrivateKeySigner) -> User {
    User::new(Connection::open(network.url(), None).await.unwrap(), signer)
}

/// Calls a method of the network's node.
pub async fn rpc(network: &impl Network, method: &str, params: Value) -> Value {
    let connection = Connection::open(network.url(), None).await.unwrap();
    let params: Vec<Value> = serde_json::from_value(params).unwrap();
    connection.rpc().request(method, params).await.unwrap()
}

/// One of the funded accounts.
pub async fn funded(network: &impl Network, index: usize) -> User {
    user(network, network.user(index)).await
}

/// Opens a session for the devnet's model.
pub async fn open_session(user: &User) -> UserSession {
    let offer = user.request_session(DEFAULT_MODEL).await.unwrap();
    user.open_session(&offer, SessionKey::random()).await.unwrap()
}

/// A draw for an account that never asked: one that did is given the same worker, with the facts of then, for two minutes.
pub async fn offer_to_somebody(user: &User) -> SessionOffer {
    let account = PrivateKeySigner::random().address();
    user.node().rpc().request_session(DEFAULT_MODEL.to_owned(), account).await.unwrap()
}

/// Whether the worker can be drawn now.
pub async fn is_candidate(user: &User, worker: Address) -> bool {
    offer_to_somebody(user).await.facts.candidates.iter().any(|c| c.worker == worker)
}

/// Sessions until the draw gives one with the worker.
pub async fn session_with(user: &User, worker: Address) -> UserSession {
    for _ in 0..40 {
        if is_candidate(user, worker).await {
            let session = open_session(user).await;
            if session.worker == worker {
                return session;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{worker} was never drawn");
}

/// Waits until something holds, a minute and a half at most.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    panic!("waited for a minute and a half: {what}");
}

/// The model's fee, wei.
pub async fn fee(user: &User) -> U256 {
    user.model(DEFAULT_MODEL).await.unwrap().fee
}

/// Asks and gives the verified answer with everything that was told on the way.
pub async fn ask(user: &User, session: &UserSession, prompt: &str) -> (Answer, Vec<Event>) {
    let mut events = Vec::new();
    let fee = fee(user).await;
    let answer =
        user.ask(session, prompt.as_bytes(), None, fee, &mut |event| events.push(event)).await.unwrap();
    (answer, events)
}
