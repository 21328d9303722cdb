//! Signed transactions in the form a pool takes.

use super::{LaneError, TxSpec};
use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, TxEip1559, TxEip4844, TxEip4844WithSidecar};
use alloy_eips::{eip2718::Encodable2718, eip7594::BlobTransactionSidecarVariant};
use alloy_primitives::{B256, Bytes, TxKind};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;

type PooledTransaction = EthereumTxEnvelope<TxEip4844WithSidecar<BlobTransactionSidecarVariant>>;

/// What a transaction pays, wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fees {
    pub(super) tip: u128,
    pub(super) max_fee: u128,
    pub(super) blob: u128,
}

/// What the lane adds to a spec.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) chain_id: u64,
    pub(super) nonce: u64,
    pub(super) gas_limit: u64,
    pub(super) fees: Fees,
}

/// The versioned hashes of a spec's blobs.
pub(super) fn versioned_hashes(spec: &TxSpec) -> Vec<B256> {
    match spec.sidecar.as_deref() {
        Some(BlobTransactionSidecarVariant::Eip4844(sidecar)) => sidecar.versioned_hashes().collect(),
        Some(BlobTransactionSidecarVariant::Eip7594(sidecar)) => sidecar.versioned_hashes().collect(),
        None => Vec::new(),
    }
}

/// Builds and signs a transaction; gives its hash and EIP-2718 bytes, with the sidecar where it has one.
pub(super) fn sign(
    spec: &TxSpec,
    terms: Terms,
    signer: &PrivateKeySigner,
) -> Result<(B256, Bytes), LaneError> {
    let Terms { chain_id, nonce, gas_limit, fees } = terms;
    let signed: PooledTransaction = match &spec.sidecar {
        None => {
            let tx = TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: fees.max_fee,
                max_priority_fee_per_gas: fees.tip,
                to: TxKind::Call(spec.to),
                value: spec.value,
                access_list: Default::default(),
                input: spec.input.clone(),
            };
            let signature = signer.sign_hash_sync(&tx.signature_hash()).map_err(|_| LaneError::Signing)?;
            tx.into_signed(signature).into()
        }
        Some(sidecar) => {
            let tx = TxEip4844 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: fees.max_fee,
                max_priority_fee_per_gas: fees.tip,
                to: spec.to,
                value: spec.value,
                access_list: Default::default(),
                blob_versioned_hashes: versioned_hashes(spec),
                max_fee_per_blob_gas: fees.blob,
                input: spec.input.clone(),
            };
            let tx = TxEip4844WithSidecar { tx, sidecar: sidecar.as_ref().clone() };
            let signature = signer.sign_hash_sync(&tx.signature_hash()).map_err(|_| LaneError::Signing)?;
            PooledTransaction::Eip4844(tx.into_signed(signature))
        }
    };
    Ok((*signed.hash(), signed.encoded_2718().into()))
}
