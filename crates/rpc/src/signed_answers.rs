//! The relay's complete frames as evidence against workers that commit another answer.

use crate::relay::Relay;
use alloy_primitives::{B256, Bytes};
use async_trait::async_trait;
use lcai_exex_dispatch::{SignedAnswer, SignedAnswers};

#[async_trait]
impl SignedAnswers for Relay {
    async fn signed(&self, subject: B256) -> Result<Option<SignedAnswer>, String> {
        let Some((terminal, kept)) = self.terminal(subject).await.map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let signature = Bytes::copy_from_slice(&terminal.signature);
        Ok(kept.map(|ciphertext| SignedAnswer { ciphertext: ciphertext.into(), signature }))
    }
}
