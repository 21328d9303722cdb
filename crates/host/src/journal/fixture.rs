//! The format of the values, held still: a journal written by a release must be read by the next one.

use super::{
    codec,
    effects::{EffectRecord, EmitUndo},
    extension::{ExtensionMeta, InputRecord, TableWriter, UndoRecord},
    *,
};
use crate::{Call, EffectDepth, FeedBlock, FeedLog, Heads, IncludedBlob, Intent, OnRepeat, StateRead};
use alloy_primitives::{Bytes, hex};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug};

const FIXTURE: &str = include_str!("../../testdata/journal-v1.txt");

/// Compares a value with its line of the fixture, both ways.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let bytes = codec::encode("sample", value).unwrap();
    let line = FIXTURE.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    let line = line.unwrap_or_else(|| panic!("the fixture lacks {name}: {}", hex::encode(&bytes)));
    assert_eq!(line, hex::encode(&bytes), "{name} is written differently");
    assert_eq!(codec::decode::<T>("sample", &hex::decode(line).unwrap()).unwrap(), *value, "{name}");
}

fn at(number: u64) -> BlockRef {
    BlockRef { number, hash: B256::repeat_byte(number as u8) }
}

fn intent() -> Intent {
    Intent {
        subject: B256::repeat_byte(0x51),
        action: "acknowledge".into(),
        origin: at(7),
        depth: EffectDepth::Depth(2),
        on_repeat: OnRepeat::Again,
        not_after: Some(1_700_000_000),
        payload: vec![1, 2, 3],
    }
}

#[test]
fn format_version_1_is_read_and_written() {
    check(
        "identity",
        &JournalIdentity {
            chain_id: 8200,
            genesis_hash: B256::repeat_byte(9),
            contracts: vec![Address::repeat_byte(1), Address::repeat_byte(2)],
        },
    );
    check("heads", &Heads { head: at(9), safe: Some(at(5)), finalized: None });
    check(
        "feed block",
        &FeedBlock {
            number: 300,
            hash: B256::repeat_byte(3),
            parent_hash: B256::repeat_byte(2),
            timestamp: 1_700_000_600,
            logs: vec![FeedLog {
                address: Address::repeat_byte(1),
                topics: vec![B256::repeat_byte(4)],
                data: Bytes::from_static(&[5, 6]),
                transaction_hash: B256::repeat_byte(7),
                transaction_index: 1,
                log_index: 2,
            }],
            blobs: vec![IncludedBlob {
                transaction_hash: B256::repeat_byte(8),
                index: 1,
                versioned_hash: B256::repeat_byte(0x10),
            }],
            reads: vec![StateRead {
                call: Call { to: Address::repeat_byte(1), input: Bytes::from_static(&[0xaa]) },
                success: true,
                output: Bytes::from_static(&[0xbb, 0xcc]),
            }],
        },
    );
    check(
        "extension",
        &ExtensionMeta {
            version: 3,
            cursor: Some(at(7)),
            next_input: 12,
            writers: BTreeMap::from([
                ("health".to_owned(), TableWriter::Inputs),
                ("jobs".to_owned(), TableWriter::Blocks),
            ]),
        },
    );
    check(
        "undo record",
        &UndoRecord {
            block: at(7),
            parent: Some(at(6)),
            tables: vec![("jobs".to_owned(), vec![(vec![1], None), (vec![2], Some(vec![3]))])],
            effects: vec![
                EmitUndo { id: B256::repeat_byte(1), before: None },
                EmitUndo { id: B256::repeat_byte(2), before: Some((intent(), false)) },
            ],
        },
    );
    check("input", &InputRecord { at: at(7), input: vec![1, 2] });
    check(
        "effect",
        &EffectRecord {
            intent: intent(),
            wanted: true,
            open: false,
            started: true,
            done: Some(vec![4]),
            dropped: Some("late".into()),
        },
    );
}
