//! `lcaiOperator_getVerdict` and its neighbours: what the disputer's books say, for the operator of its node.

use crate::DisputerHandle;
use alloy_primitives::Address;
use jsonrpsee::{
    Methods,
    core::{RpcResult, async_trait},
};
use lcai_exex_disputer::{
    Comparison, DisputeRow, DisputerCore, Evidence, Finding, Ground, JobRow, Judged, Manifest, Outcome,
    RungKind, WorkerRecord,
};
use lcai_primitives::ids::JobId;
use lcai_rpc::{
    LcaiDisputerApiServer, LcaiError,
    verdicts::{
        CanaryPayment, ComparisonInfo, DisputeInfo, DisputeOutcome, EvidenceInfo, FindingInfo, ManifestInfo,
        RungName, VerdictExplanation, VerdictGround, VerdictInfo, WorkerStatistics,
    },
};
use std::{collections::BTreeMap, fmt};

/// The methods over a node's disputer, which refuse where it has none.
pub(crate) fn module(disputer: Option<DisputerHandle>) -> Methods {
    Readout(disputer).into_rpc().into()
}

struct Readout(Option<DisputerHandle>);

impl Readout {
    fn disputer(&self) -> Result<&DisputerHandle, LcaiError> {
        self.0.as_ref().ok_or_else(|| LcaiError::NotOffered("this node is no disputer".to_owned()))
    }

    /// The job, and whether it is a canary.
    fn job(&self, id: JobId) -> Result<(JobRow, bool), LcaiError> {
        let found = self.disputer()?.core.read(|core| {
            let row = core.job(id)?.clone();
            let user = core.session(row.subject.session_id).map(|session| session.user);
            Some((row, user.is_some_and(|user| core.is_canary_account(user))))
        });
        found.ok_or_else(|| LcaiError::NotFound(format!("the disputer knows no job {id}")))
    }

    async fn verdict(&self, id: JobId) -> Result<VerdictInfo, LcaiError> {
        let (row, canary) = self.job(id)?;
        let verdicts = &self.disputer()?.verdicts;
        let (mut explanation, mut undecided) = (None, None);
        // What was signed counts, whatever was found since.
        if let Some(signed) = verdicts.signed(&row.subject).await.map_err(internal)? {
            explanation = Some(explain(&signed));
        } else if let Some(answer) = row.answer {
            match verdicts.judged(&row.subject, answer.ciphertext_hash).await.map_err(internal)? {
                Some(Judged::Decided(bytes)) => {
                    explanation = Some(explain(&Evidence::decode(&bytes).map_err(internal)?));
                }
                Some(Judged::Undecided(reason)) => undecided = Some(reason),
                None => {}
            }
        }
        Ok(VerdictInfo {
            job_id: id,
            session_id: row.subject.session_id,
            worker: row.worker,
            canary,
            dispute: row.dispute.as_ref().map(dispute),
            explanation,
            undecided,
        })
    }

    async fn evidence(&self, id: JobId) -> Result<EvidenceInfo, LcaiError> {
        let (row, _) = self.job(id)?;
        let verdicts = &self.disputer()?.verdicts;
        let signed = verdicts.signed(&row.subject).await.map_err(internal)?;
        let none = || LcaiError::NotFound(format!("no verdict over job {id} was signed"));
        let document = String::from_utf8(signed.ok_or_else(none)?.encode()).map_err(internal)?;
        let posted = verdicts.posted(&row.subject).await.map_err(internal)?;
        Ok(EvidenceInfo {
            job_id: id,
            document,
            versioned_hash: posted.map(|posted| posted.versioned_hash),
            transaction: posted.map(|posted| posted.transaction),
        })
    }
}

#[async_trait]
impl LcaiDisputerApiServer for Readout {
    async fn get_verdict(&self, job: JobId) -> RpcResult<VerdictInfo> {
        Ok(self.verdict(job).await?)
    }

    async fn get_evidence(&self, job: JobId) -> RpcResult<EvidenceInfo> {
        Ok(self.evidence(job).await?)
    }

    async fn get_worker_statistics(&self) -> RpcResult<Vec<WorkerStatistics>> {
        Ok(self.disputer()?.core.read(statistics))
    }

    async fn get_canary_payments(&self) -> RpcResult<Vec<CanaryPayment>> {
        Ok(self.disputer()?.awaited.list())
    }
}

fn internal(error: impl fmt::Display) -> LcaiError {
    LcaiError::Internal(error.to_string())
}

fn dispute(row: &DisputeRow) -> DisputeInfo {
    let (outcome, score_bps) = match row.outcome {
        None => (DisputeOutcome::Open, None),
        Some(Outcome::Guilty(score)) => (DisputeOutcome::Guilty, Some(score)),
        Some(Outcome::NotGuilty(score)) => (DisputeOutcome::NotGuilty, Some(score)),
        Some(Outcome::Defaulted) => (DisputeOutcome::Defaulted, None),
    };
    let (filer, deadline, threshold_bps) = (row.filer, row.deadline, row.threshold_bps.into());
    DisputeInfo { filer, deadline, threshold_bps, outcome, score_bps }
}

fn explain(evidence: &Evidence) -> VerdictExplanation {
    let (ground, comparison) = match &evidence.ground {
        Ground::Compared(comparison) => (VerdictGround::Compared, Some(compared(comparison))),
        Ground::ResponseNotAsCommitted => (VerdictGround::ResponseNotAsCommitted, None),
        Ground::ResponseNeverPublished => (VerdictGround::ResponseNeverPublished, None),
        Ground::AnswerNotUnderKey => (VerdictGround::AnswerNotUnderKey, None),
        Ground::PromptNotAsEscrowed => (VerdictGround::PromptNotAsEscrowed, None),
    };
    VerdictExplanation { guilty: evidence.guilty, score_bps: evidence.score.bps().into(), ground, comparison }
}

fn compared(comparison: &Comparison) -> ComparisonInfo {
    let judgement = &comparison.judgement;
    ComparisonInfo {
        threshold_bps: judgement.threshold.bps().into(),
        decided_by: rung(judgement.decided_by),
        findings: judgement.findings.iter().map(finding).collect(),
        history: comparison.history.into(),
        histories: comparison.histories.into(),
        manifest: manifest(&comparison.manifest),
    }
}

const fn rung(kind: RungKind) -> RungName {
    match kind {
        RungKind::Bytes => RungName::Bytes,
        RungKind::TokenPrefix => RungName::TokenPrefix,
        RungKind::Similarity => RungName::Similarity,
    }
}

fn finding(finding: &Finding) -> FindingInfo {
    let (claimed, repeated, first_divergence) = match *finding {
        Finding::Bytes { claimed, repeated, .. } => (Some(claimed), Some(repeated), None),
        Finding::TokenPrefix { claimed, repeated, first_divergence, .. } => {
            (Some(claimed), Some(repeated), Some(first_divergence))
        }
        Finding::Similarity { .. } => (None, None, None),
    };
    let (rung, score_bps) = (rung(finding.kind()), finding.score().bps().into());
    FindingInfo { rung, score_bps, claimed, repeated, first_divergence }
}

fn manifest(manifest: &Manifest) -> ManifestInfo {
    ManifestInfo {
        model: manifest.model.clone(),
        model_digest: manifest.model_digest.clone(),
        engine: manifest.engine.clone(),
        isa: manifest.isa.clone(),
        program: manifest.program.clone(),
        max_tokens: manifest.max_tokens.into(),
        temperature_milli: manifest.temperature_milli.into(),
        seed: manifest.seed,
        embedder: manifest.embedder.as_ref().map(|embedder| embedder.name.clone()),
        embedder_digest: manifest.embedder.as_ref().map(|embedder| embedder.digest.clone()),
    }
}

/// Sent, answered, disputed, convicted.
type Canaries = [u64; 4];

fn statistics(core: &DisputerCore) -> Vec<WorkerStatistics> {
    let mut canaries: BTreeMap<Address, Canaries> = BTreeMap::new();
    for row in core.canary_jobs() {
        let convicted = |dispute: &DisputeRow| matches!(dispute.outcome, Some(Outcome::Guilty(_)));
        let happened =
            [true, row.answer.is_some(), row.dispute.is_some(), row.dispute.as_ref().is_some_and(convicted)];
        let counts = canaries.entry(row.worker).or_default();
        for (count, happened) in counts.iter_mut().zip(happened) {
            *count += u64::from(happened);
        }
    }
    let mut records: BTreeMap<Address, WorkerRecord> =
        core.workers().map(|(worker, record)| (*worker, *record)).collect();
    for worker in canaries.keys() {
        records.entry(*worker).or_default();
    }
    let of = |(worker, record): (Address, WorkerRecord)| {
        let [canaries, canaries_answered, canaries_disputed, canaries_convicted] =
            canaries.get(&worker).copied().unwrap_or_default();
        WorkerStatistics {
            worker,
            completed: record.completed,
            disputed: record.disputed,
            convicted: record.convicted,
            acquitted: record.acquitted,
            defaulted: record.defaulted,
            suspected: record.is_suspected(),
            suspended: core.was_suspended(worker, core.block_time()),
            canaries,
            canaries_answered,
            canaries_disputed,
            canaries_convicted,
        }
    };
    records.into_iter().map(of).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_without_a_disputer_says_so() {
        let methods = [
            ("getVerdict", "[\"0x1\"]"),
            ("getEvidence", "[1]"),
            ("getWorkerStatistics", "[]"),
            ("getCanaryPayments", "[]"),
        ];
        for (method, params) in methods {
            let call =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"lcaiOperator_{method}","params":{params}}}"#);
            let (answer, _) = module(None).raw_json_request(&call, 1).await.unwrap();
            assert!(answer.get().contains("-39008"), "{method}: {answer}");
        }
    }
}
