//! Against answers that Prysm v7.0.0 gave on the network of `devnet/network` (fixtures/beacon/README.md).

use super::*;
use crate::{FallbackSource, decode};
use alloy_eips::eip4844::BYTES_PER_BLOB;
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const GENESIS: &str = include_str!("../../fixtures/beacon/genesis.json");
const SPEC: &str = include_str!("../../fixtures/beacon/spec.json");
const BLOCK: &str = include_str!("../../fixtures/beacon/block.json");
const BLOBS: &str = include_str!("../../fixtures/beacon/blobs.json");
const SIDECARS: &str = include_str!("../../fixtures/beacon/blob_sidecars.json");
const MISSED: &str = include_str!("../../fixtures/beacon/missed.json");
const DROPPED: &str = include_str!("../../fixtures/beacon/dropped.json");

/// What a beacon node says under a path: HTTP status and body.
type Answers = HashMap<String, (u16, String)>;

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

/// The recorded block's slot.
fn slot() -> u64 {
    number(&parsed(BLOCK)["data"]["message"]["slot"])
}

fn slot_seconds() -> u64 {
    number(&parsed(SPEC)["data"]["SECONDS_PER_SLOT"])
}

/// The timestamp of a payload in a slot.
fn time_of(slot: u64) -> u64 {
    number(&parsed(GENESIS)["data"]["genesis_time"]) + slot * slot_seconds()
}

/// The first blob of the recorded block.
fn hash() -> B256 {
    let commitment = &parsed(BLOCK)["data"]["message"]["body"]["blob_kzg_commitments"][0];
    versioned_hash(&serde_json::from_value(commitment.clone()).unwrap())
}

/// The files lack the zeros at the end of blobs.
fn padded(blob: &Value) -> String {
    let text = blob.as_str().unwrap();
    format!("{text}{}", "0".repeat(2 + 2 * BYTES_PER_BLOB - text.len()))
}

fn blobs() -> String {
    let mut answer = parsed(BLOBS);
    answer["data"][0] = json!(padded(&answer["data"][0]));
    answer.to_string()
}

fn sidecars() -> String {
    let mut answer = parsed(SIDECARS);
    answer["data"][0]["blob"] = json!(padded(&answer["data"][0]["blob"]));
    answer.to_string()
}

/// A node that has the recorded block, and the slots after it missed.
fn chain() -> Answers {
    let mut answers = Answers::new();
    let mut put = |path: String, status: u16, body: &str| answers.insert(path, (status, body.to_owned()));
    put("/eth/v1/beacon/genesis".into(), 200, GENESIS);
    put("/eth/v1/config/spec".into(), 200, SPEC);
    put(format!("/eth/v1/beacon/blinded_blocks/{}", slot()), 200, BLOCK);
    put(blobs_path(), 200, &blobs());
    put(sidecars_path(), 200, &sidecars());
    answers
}

fn blobs_path() -> String {
    format!("/eth/v1/beacon/blobs/{}?versioned_hashes={}", slot(), hash())
}

fn sidecars_path() -> String {
    format!("/eth/v1/beacon/blob_sidecars/{}?indices=0", slot())
}

/// Serves the answers, and 404 as recorded under every other path. Gives its address.
async fn serve(answers: Answers) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut part = [0; 1024];
                    let read = stream.read(&mut part).await.unwrap_or_default();
                    if read == 0 {
                        return;
                    }
                    request.extend_from_slice(&part[..read]);
                }
                let head = String::from_utf8_lossy(&request).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let missed = (404, MISSED.to_owned());
                let (status, body) = answers.get(path).unwrap_or(&missed);
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
            });
        }
    });
    format!("http://{address}")
}

/// A source over such a node, at the time of a slot.
async fn source(answers: Answers, located: Option<u64>) -> BeaconSource {
    let url = serve(answers).await;
    let mut source = BeaconSource::new(&url, Arc::new(move |_| located)).unwrap();
    source.now = within_retention;
    source
}

/// Loading the trusted setup takes a while on a busy machine.
fn patient(sources: Vec<Arc<dyn BlobSource>>) -> FallbackSource {
    FallbackSource::new(sources).with_timeout(std::time::Duration::from_secs(600))
}

fn within_retention() -> u64 {
    time_of(slot() + 1)
}

fn past_retention() -> u64 {
    let spec = parsed(SPEC);
    let epochs = number(&spec["data"]["MIN_EPOCHS_FOR_DATA_COLUMN_SIDECARS_REQUESTS"]) + 2;
    time_of(slot() + epochs * number(&spec["data"]["SLOTS_PER_EPOCH"]))
}

const fn hint(timestamp: u64) -> Option<BlobHint> {
    Some(BlobHint { block_number: 1, block_hash: B256::ZERO, timestamp, parent_beacon_block_root: None })
}

fn checked(blob: Option<Box<Blob>>) {
    let blob = blob.expect("the blob");
    assert_eq!(blob_versioned_hash(&blob).unwrap(), hash());
    assert!(!decode(blob.as_slice()).unwrap().is_empty(), "one of ours");
}

#[tokio::test]
async fn the_blob_is_found_in_the_slot_of_its_block() {
    let source = source(chain(), None).await;
    checked(source.blob(hash(), hint(time_of(slot()))).await.unwrap());
    let at = source.location(hash(), time_of(slot())).await.unwrap();
    assert_eq!(at, Some(BeaconLocation { slot: slot(), index: 0 }));
}

#[tokio::test]
async fn a_hint_may_be_of_a_later_block_with_missed_slots_between() {
    let source = source(chain(), None).await;
    checked(source.blob(hash(), hint(time_of(slot() + 5))).await.unwrap());
    // Not in a block after the hint's, and not further back than is looked.
    for slot in [slot() - 1, slot() + SEARCH_SLOTS + 1] {
        assert!(source.blob(hash(), hint(time_of(slot))).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn without_a_hint_it_is_where_we_saw_it() {
    let located = source(chain(), Some(time_of(slot()))).await;
    checked(located.blob(hash(), None).await.unwrap());
    // A hint that leads nowhere does no harm.
    checked(located.blob(hash(), hint(0)).await.unwrap());
    let unknown = source(chain(), None).await;
    assert!(unknown.blob(hash(), None).await.unwrap().is_none());
}

#[tokio::test]
async fn an_older_client_has_sidecars() {
    let mut answers = chain();
    answers.remove(&blobs_path());
    checked(source(answers, None).await.blob(hash(), hint(time_of(slot()))).await.unwrap());
}

#[tokio::test]
async fn of_several_blobs_the_one_with_the_right_commitment_is_taken() {
    let mut answers = chain();
    let mut several = parsed(&blobs());
    let other = format!("0x{}", "0".repeat(2 * BYTES_PER_BLOB));
    several["data"].as_array_mut().unwrap().insert(0, json!(other));
    answers.insert(blobs_path(), (200, several.to_string()));
    checked(source(answers, None).await.blob(hash(), hint(time_of(slot()))).await.unwrap());
}

#[tokio::test]
async fn other_bytes_are_wrong_and_not_gone() {
    let mut answers = chain();
    let mut other = parsed(BLOBS);
    other["data"][0] = json!(format!("0x{}", "0".repeat(2 * BYTES_PER_BLOB)));
    answers.insert(blobs_path(), (200, other.to_string()));
    let mut source = source(answers, None).await;
    source.now = past_retention;
    let search = patient(vec![Arc::new(source)]);
    let error = search.blob(hash(), hint(time_of(slot()))).await.unwrap_err();
    assert!(matches!(error, BlobError::Unavailable { .. }), "{error}");
    let stats = search.stats().remove(0);
    assert_eq!((stats.wrong, stats.gone), (1, 0));
}

/// A node that has dropped the block's columns.
fn dropped() -> Answers {
    let mut answers = chain();
    answers.insert(blobs_path(), (404, DROPPED.to_owned()));
    answers.insert(sidecars_path(), (404, DROPPED.to_owned()));
    answers
}

#[tokio::test]
async fn past_retention_it_is_gone_and_before_something_is_amiss() {
    let mut source = source(dropped(), None).await;
    let error = source.blob(hash(), hint(time_of(slot()))).await.unwrap_err();
    assert!(error.to_string().contains("--subscribe-all-data-subnets"), "{error}");

    source.now = past_retention;
    let search = patient(vec![Arc::new(source)]);
    let error = search.blob(hash(), hint(time_of(slot()))).await.unwrap_err();
    assert!(matches!(error, BlobError::Gone { slot: at, .. } if at == slot()), "{error}");
    assert!(error.to_string().contains("is gone"), "{error}");
    let stats = search.stats().remove(0);
    assert_eq!((stats.gone, stats.errors, stats.wrong), (1, 0, 0));
}

#[tokio::test]
async fn gone_in_one_place_is_not_gone_while_another_cannot_be_asked() {
    let mut gone = source(dropped(), None).await;
    gone.now = past_retention;
    let mut silent = dropped();
    silent.insert("/eth/v1/beacon/genesis".into(), (503, String::new()));
    let silent = source(silent, None).await;
    let search = patient(vec![Arc::new(gone), Arc::new(silent)]);
    let error = search.blob(hash(), hint(time_of(slot()))).await.unwrap_err();
    assert!(matches!(error, BlobError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("503"), "{error}");
}

#[test]
fn an_address_is_checked_and_its_password_kept_quiet() {
    for wrong in ["127.0.0.1:3500", "ws://127.0.0.1:3500", "http://", ""] {
        assert!(BeaconSource::new(wrong, Arc::new(|_| None)).is_err(), "{wrong}");
    }
    let source = BeaconSource::new("https://me:secret@beacon.example/key", Arc::new(|_| None)).unwrap();
    assert_eq!(source.name(), "beacon node beacon.example:443");
    assert!(!format!("{source:?}").contains("secret"));
    assert_eq!(source.url.join("eth/v1").unwrap().path(), "/key/eth/v1");
}

/// Every kind of answer that a consensus client gives, given what none does.
#[test]
fn answers_that_no_client_gives() {
    lcai_fuzz::fuzz(env!("CARGO_MANIFEST_DIR"), "beacon", |input| {
        let spec = super::parsed::<BTreeMap<String, serde_json::Value>>(input);
        let block = super::parsed::<Block>(input).map(|block| {
            let commitments = block.message.body.blob_kzg_commitments;
            commitments.iter().map(versioned_hash).collect::<Vec<_>>().len()
        });
        let sidecars = super::parsed::<Vec<Sidecar>>(input).map(|all| {
            all.iter()
                .filter(|sidecar| sidecar.index.parse::<usize>().is_ok())
                .map(|s| s.blob.len())
                .sum::<usize>()
        });
        let blobs = super::parsed::<Vec<Bytes>>(input)
            .map(|all| all.iter().filter(|blob| Blob::try_from(blob.as_ref()).is_ok()).count());
        let genesis =
            super::parsed::<Genesis>(input).map(|genesis| genesis.genesis_time.parse::<u64>().is_ok());
        let spec = lcai_fuzz::kind(spec);
        format!(
            "{spec} {} {} {} {}",
            lcai_fuzz::kind(block),
            lcai_fuzz::kind(sidecars),
            lcai_fuzz::kind(blobs),
            lcai_fuzz::kind(genesis)
        )
    });
}
