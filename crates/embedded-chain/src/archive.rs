//! Sidecars of included blob transactions: the client forgets them with the fork choice that includes them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use alloy_primitives::B256;
use ethrex_common::types::BlobsBundle;

/// A bounded store of sidecars, by transaction hash and by versioned hash.
#[derive(Debug)]
pub(crate) struct BlobArchive {
    capacity: usize,
    blobs: usize,
    sidecars: HashMap<B256, Arc<BlobsBundle>>,
    /// The newest transaction that carries a versioned hash, and the blob's position in it.
    locations: HashMap<B256, (B256, usize)>,
    /// Insertion order.
    order: VecDeque<B256>,
}

impl BlobArchive {
    /// `capacity` is in blobs. A sidecar larger than that is kept alone.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            blobs: 0,
            sidecars: HashMap::new(),
            locations: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn insert(&mut self, transaction: B256, sidecar: BlobsBundle) {
        if self.sidecars.contains_key(&transaction) {
            return;
        }
        for (index, hash) in sidecar.generate_versioned_hashes().into_iter().enumerate() {
            self.locations.insert(B256::from(hash.0), (transaction, index));
        }
        self.blobs += sidecar.blobs.len();
        self.sidecars.insert(transaction, Arc::new(sidecar));
        self.order.push_back(transaction);
        while self.blobs > self.capacity && self.order.len() > 1 {
            self.evict_oldest();
        }
    }

    fn evict_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        let Some(sidecar) = self.sidecars.remove(&oldest) else { return };
        self.blobs -= sidecar.blobs.len();
        self.locations.retain(|_, (transaction, _)| *transaction != oldest);
    }

    /// The sidecar of an included transaction.
    pub(crate) fn sidecar(&self, transaction: B256) -> Option<Arc<BlobsBundle>> {
        self.sidecars.get(&transaction).cloned()
    }

    /// The sidecar that holds the blob of a versioned hash, and the blob's position in it.
    pub(crate) fn locate(&self, versioned_hash: B256) -> Option<(Arc<BlobsBundle>, usize)> {
        let (transaction, index) = self.locations.get(&versioned_hash)?;
        Some((self.sidecar(*transaction)?, *index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(seed: u8, blobs: usize) -> BlobsBundle {
        BlobsBundle {
            blobs: vec![[seed; 131_072]; blobs],
            commitments: (0..blobs).map(|index| [seed.wrapping_add(index as u8); 48]).collect(),
            proofs: vec![[0; 48]; blobs],
            version: 0,
        }
    }

    fn hashes(bundle: &BlobsBundle) -> Vec<B256> {
        bundle.generate_versioned_hashes().into_iter().map(|hash| B256::from(hash.0)).collect()
    }

    #[test]
    fn finds_blobs_and_drops_the_oldest_transaction_first() {
        let mut archive = BlobArchive::new(3);
        let (first, second, third) = (sidecar(1, 1), sidecar(10, 2), sidecar(20, 1));
        let (a, b, c) = (B256::repeat_byte(1), B256::repeat_byte(2), B256::repeat_byte(3));
        archive.insert(a, first.clone());
        archive.insert(b, second.clone());
        let (found, index) = archive.locate(hashes(&second)[1]).unwrap();
        assert_eq!((found.as_ref(), index), (&second, 1));

        archive.insert(c, third.clone());
        assert!(archive.sidecar(a).is_none());
        assert!(archive.locate(hashes(&first)[0]).is_none());
        assert!(archive.locate(hashes(&second)[0]).is_some());
        assert!(archive.locate(hashes(&third)[0]).is_some());
        assert_eq!(archive.blobs, 3);
    }

    #[test]
    fn a_blob_sent_twice_survives_the_eviction_of_its_first_transaction() {
        let mut archive = BlobArchive::new(2);
        let blob = sidecar(7, 1);
        archive.insert(B256::repeat_byte(1), blob.clone());
        archive.insert(B256::repeat_byte(2), blob.clone());
        archive.insert(B256::repeat_byte(3), sidecar(9, 1));
        assert_eq!(archive.blobs, 2);
        assert!(archive.locate(hashes(&blob)[0]).is_some());
    }
}
