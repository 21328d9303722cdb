//! A chain of our making for the tests: who owns which session and how far each job is.

use crate::{
    relay::{Relay, RelayConfig},
    session_view::{JobView, SessionParties, SessionView},
    store::FrameStore,
};
use alloy_primitives::{Address, B256};
use alloy_signer_local::PrivateKeySigner;
use lcai_host::BlockRef;
use lcai_primitives::{
    contracts::{Deployment, JobState},
    frames::{Frame, FrameKind},
    ids::{JobId, SessionId, Subject},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

pub(crate) const SESSION: SessionId = SessionId(3);
pub(crate) const JOB: JobId = JobId(7);

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

pub(crate) struct TestView {
    head: watch::Sender<Option<BlockRef>>,
    sessions: Mutex<HashMap<SessionId, SessionParties>>,
    jobs: Mutex<HashMap<JobId, JobView>>,
}

impl Default for TestView {
    fn default() -> Self {
        let head = watch::Sender::new(Some(BlockRef { number: 1, hash: B256::ZERO }));
        Self { head, sessions: Mutex::default(), jobs: Mutex::default() }
    }
}

impl SessionView for TestView {
    fn session(&self, id: SessionId) -> Option<SessionParties> {
        self.sessions.lock().get(&id).copied()
    }

    fn job(&self, id: JobId) -> Option<JobView> {
        self.jobs.lock().get(&id).copied()
    }
}

impl TestView {
    pub(crate) fn head(&self) -> watch::Receiver<Option<BlockRef>> {
        self.head.subscribe()
    }

    pub(crate) fn next_block(&self) {
        self.head.send_modify(|head| {
            if let Some(head) = head {
                head.number += 1;
            }
        });
    }

    pub(crate) fn jobs(&self) -> BTreeSet<JobId> {
        self.jobs.lock().keys().copied().collect()
    }

    pub(crate) fn remove_job(&self, id: JobId) {
        self.jobs.lock().remove(&id);
    }

    pub(crate) fn add_session(&self, id: SessionId, user: Address, worker: Address, create: u8) {
        let parties = SessionParties { user, worker, create_transaction: B256::repeat_byte(create) };
        self.sessions.lock().insert(id, parties);
    }

    /// `submit` tells apart jobs that have the same number on different forks.
    pub(crate) fn add_job(&self, job_id: JobId, session_id: SessionId, state: JobState, submit: u8) {
        let worker = self.session(session_id).unwrap().worker;
        let subject = Subject {
            chain_id: deployment().chain_id,
            contract: deployment().job_registry,
            job_id,
            session_id,
            prompt_blob_hash: B256::repeat_byte(submit),
            submit_tx_hash: B256::repeat_byte(submit),
        };
        self.jobs.lock().insert(job_id, JobView { subject, worker, state, response_ciphertext_hash: None });
    }

    pub(crate) fn change(&self, job: JobId, change: impl FnOnce(&mut JobView)) {
        change(self.jobs.lock().get_mut(&job).unwrap());
    }
}

/// A user, a worker, one session of theirs and one acknowledged job in it.
pub(crate) struct Scene {
    pub(crate) view: Arc<TestView>,
    pub(crate) user: PrivateKeySigner,
    pub(crate) worker: PrivateKeySigner,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let (user, worker) = (PrivateKeySigner::random(), PrivateKeySigner::random());
        let view = Arc::new(TestView::default());
        view.add_session(SESSION, user.address(), worker.address(), 1);
        view.add_job(JOB, SESSION, JobState::Acknowledged, 1);
        Self { view, user, worker }
    }

    /// A relay on a file; callers ahead of the chain are told so at once.
    pub(crate) fn relay(&self, dir: &Path, cap: u64) -> Relay {
        let store = FrameStore::open(&dir.join("frames.redb"), cap).unwrap();
        let config = RelayConfig { catch_up: Duration::ZERO, ..RelayConfig::new(deployment()) };
        Relay::new(store, Arc::clone(&self.view) as Arc<dyn SessionView>, config).unwrap()
    }

    pub(crate) fn complete(&self, job: JobId, chunks: u32, ciphertext: Vec<u8>) -> Frame {
        let signature = lcai_crypto::sign_response(
            &self.worker,
            deployment().chain_id,
            deployment().job_registry,
            job,
            SESSION,
            &ciphertext,
        );
        Frame::complete(job, SESSION, chunks, ciphertext, signature.unwrap(), 5)
    }
}

pub(crate) fn chunk(job: JobId, seq: u32, size: usize) -> Frame {
    Frame::chunk(job, SESSION, seq, FrameKind::Text, vec![seq as u8; size], None, 5)
}

/// A WebSocket without a client's manners.
pub(crate) async fn websocket(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    stream
}

/// RFC 6455: one final text frame, masked with zeros.
pub(crate) fn text_message(text: &[u8]) -> Vec<u8> {
    let mut message = vec![0x81];
    match text.len() {
        short @ ..126 => message.push(0x80 | u8::try_from(short).unwrap()),
        medium @ ..65_536 => {
            message.push(0x80 | 126);
            message.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            message.push(0x80 | 127);
            message.extend_from_slice(&u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(text);
    message
}

/// The next text that the server sends.
pub(crate) async fn read_text(stream: &mut TcpStream) -> Vec<u8> {
    loop {
        let opcode = stream.read_u8().await.unwrap() & 0x0f;
        let length = match stream.read_u8().await.unwrap() {
            126 => u64::from(stream.read_u16().await.unwrap()),
            127 => stream.read_u64().await.unwrap(),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if opcode == 1 {
            return payload;
        }
    }
}
