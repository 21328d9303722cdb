//! Blobs out of the pool's store.
//!
//! The store is keyed by transaction, is emptied on every start and at finality, and holds what this node has seen in
//! gossip or was sent. So the index below is filled when a block with blob transactions is read for the feed, which is
//! also when the blob keeper asks.

use alloy_eips::eip7594::BlobTransactionSidecarVariant;
use alloy_primitives::{B256, Bytes};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};

/// How many blobs' transactions are remembered: two days of full blocks at six a block and 12 s a slot.
const REMEMBERED: usize = 1 << 17;

/// Which transaction carries a blob.
#[derive(Debug, Default)]
pub(crate) struct BlobIndex(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    transactions: HashMap<B256, B256>,
    order: VecDeque<B256>,
}

impl BlobIndex {
    /// Remembers that `transaction` carries the blob; the newest transaction wins.
    pub(crate) fn insert(&self, versioned_hash: B256, transaction: B256) {
        let mut index = self.0.lock();
        if index.transactions.insert(versioned_hash, transaction).is_none() {
            index.order.push_back(versioned_hash);
        }
        while index.order.len() > REMEMBERED {
            if let Some(oldest) = index.order.pop_front() {
                index.transactions.remove(&oldest);
            }
        }
    }

    /// The transaction that carries the blob.
    pub(crate) fn transaction(&self, versioned_hash: &B256) -> Option<B256> {
        self.0.lock().transactions.get(versioned_hash).copied()
    }
}

/// One blob of a sidecar, of either form (EIP-4844, EIP-7594). Its commitment is checked against the versioned hash by
/// position only; whoever keeps it recomputes it.
pub(crate) fn blob_of(sidecar: &BlobTransactionSidecarVariant, versioned_hash: B256) -> Option<Bytes> {
    let position = sidecar.versioned_hashes().position(|hash| hash == versioned_hash)?;
    let blob = match sidecar {
        BlobTransactionSidecarVariant::Eip4844(sidecar) => sidecar.blobs.get(position),
        BlobTransactionSidecarVariant::Eip7594(sidecar) => sidecar.blobs.get(position),
    };
    blob.map(|blob| Bytes::copy_from_slice(blob.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_bounded_and_forgets_the_oldest() {
        let index = BlobIndex::default();
        for number in 0..=REMEMBERED {
            index.insert(B256::left_padding_from(&number.to_be_bytes()), B256::repeat_byte(1));
        }
        assert_eq!(index.transaction(&B256::ZERO), None);
        assert!(index.transaction(&B256::left_padding_from(&[1])).is_some());
        assert_eq!(index.0.lock().transactions.len(), REMEMBERED);
    }
}
