//! Clients that are cut at random every second, a worker whose answers get lost, a node that is restarted twice: every
//! client ends with exactly what the worker sent.
//!
//! `LCAI_TORTURE_SECONDS=60 cargo test -p lcai-rpc torture -- --nocapture` is the full minute; CI runs a shorter one.

use crate::{
    LcaiApiClient,
    loopback_tests::{Node, login},
    testing::{SESSION, Scene, chunk},
};
use jsonrpsee::ws_client::{WsClient, WsClientBuilder};
use lcai_primitives::{
    contracts::JobState,
    frames::{Envelope, Frame},
    ids::JobId,
    quantity::Quantity,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{net::SocketAddr, time::Duration};
use tempfile::tempdir;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

const CLIENTS: u64 = 16;
/// Sequence numbers of one job before the next begins.
const CHUNKS: u32 = 60;

fn duration() -> Duration {
    let seconds = std::env::var("LCAI_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(12))
}

/// Where the node is now; `None` while it is down.
type Address = watch::Receiver<Option<SocketAddr>>;

async fn connect(address: &mut Address) -> WsClient {
    loop {
        let at = *address.wait_for(Option::is_some).await.unwrap();
        let url = format!("ws://{}", at.unwrap());
        if let Ok(client) =
            WsClientBuilder::default().request_timeout(Duration::from_secs(3)).build(url).await
        {
            return client;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Streams job after job until the time is over; a batch that was not confirmed is sent again. Gives what it sent.
async fn work(scene: &Scene, token: String, mut address: Address, until: Instant) -> Vec<Frame> {
    let mut random = StdRng::seed_from_u64(0);
    let mut sent = Vec::new();
    let mut client = connect(&mut address).await;
    let mut job = 0;
    while Instant::now() < until {
        job += 1;
        let id = JobId(job);
        scene.view.add_job(id, SESSION, JobState::Acknowledged, job as u8);
        let mut frames: Vec<Frame> =
            (1..=CHUNKS).map(|seq| chunk(id, seq, random.gen_range(28..2_000))).collect();
        frames.push(scene.complete(id, CHUNKS, vec![job as u8; 3_000]));
        let mut rest = frames.as_slice();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(random.gen_range(1..=rest.len().min(8)));
            // Some confirmations get lost, so that frames come twice.
            let confirmed = client.submit_frames(token.clone(), batch.to_vec()).await.is_ok();
            if !confirmed {
                client = connect(&mut address).await;
            } else if random.gen_bool(0.9) {
                rest = after;
            }
            sleep(Duration::from_millis(random.gen_range(1..25))).await;
        }
        sent.extend(frames);
    }
    sent
}

/// Reads until it has `count` frames, cut at a random time of every second until `until`. Gives what it got, and how often
/// it was cut.
async fn read(
    seed: u64,
    token: String,
    mut address: Address,
    until: Instant,
    mut count: watch::Receiver<Option<usize>>,
) -> (Vec<Envelope>, u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut got, mut cuts): (Vec<Envelope>, u32) = (Vec::new(), 0);
    loop {
        if count.borrow().is_some_and(|count| got.len() >= count) {
            return (got, cuts);
        }
        let client = connect(&mut address).await;
        let cursor = got.last().map_or(0, |envelope| envelope.cursor);
        let Ok(mut stream) = client.subscribe_frames(token.clone(), SESSION, Quantity(cursor)).await else {
            continue;
        };
        let cut = Instant::now() + Duration::from_millis(random.gen_range(0..1_000));
        loop {
            let wait = if Instant::now() < until { cut } else { Instant::now() + Duration::from_millis(500) };
            tokio::select! {
                next = stream.next() => match next {
                    Some(envelope) => got.push(envelope.unwrap()),
                    None => break,
                },
                () = tokio::time::sleep_until(wait) => break,
                _ = count.changed() => {}
            }
        }
        // The socket is dropped without a word.
        cuts += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torture_every_client_ends_with_what_the_worker_sent() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let lasts = duration();
    let mut node = Node::plain(&scene, dir.path()).await;
    let (user, worker) =
        (login(&node.ws().await, &scene.user).await, login(&node.ws().await, &scene.worker).await);
    let (place, address) = watch::channel(Some(node.handle.local_addr()));
    let (all, count) = watch::channel(None);
    let until = Instant::now() + lasts;
    let readers: Vec<_> = (0..CLIENTS)
        .map(|seed| tokio::spawn(read(seed, user.clone(), address.clone(), until, count.clone())))
        .collect();
    let restarts = async {
        for _ in 0..2 {
            sleep(lasts / 3).await;
            place.send_replace(None);
            node.stop().await;
            sleep(Duration::from_millis(300)).await;
            node = Node::plain(&scene, dir.path()).await;
            place.send_replace(Some(node.handle.local_addr()));
        }
        node
    };
    let (sent, node) = tokio::join!(work(&scene, worker, address.clone(), until), restarts);
    assert!(sent.len() > CHUNKS as usize, "{} frames", sent.len());
    all.send_replace(Some(sent.len()));
    let mut cuts = 0;
    for reader in readers {
        let (got, cut) = timeout(Duration::from_secs(30), reader).await.expect("it gets everything").unwrap();
        let cursors: Vec<u64> = got.iter().map(|envelope| envelope.cursor).collect();
        assert_eq!(cursors, (1..=sent.len() as u64).collect::<Vec<_>>(), "each once, in order");
        assert!(
            got.into_iter().map(|envelope| envelope.frame).eq(sent.iter().cloned()),
            "just what was sent"
        );
        cuts += cut;
    }
    assert!(u64::from(cuts) >= CLIENTS * lasts.as_secs() / 2, "{cuts} cuts");
    println!("{} frames to {CLIENTS} clients, {cuts} cuts, 2 restarts in {lasts:?}", sent.len());
    node.stop().await;
}
