//! Whether workers publish the answers that they commit to: a hash alone gives nobody an answer.

use super::{DisputerCore, action};
use alloy_primitives::B256;
use lcai_host::{CoreError, EffectDepth, Effects, FeedBlock, OnRepeat};
use lcai_primitives::ids::JobId;
use serde::{Deserialize, Serialize};

/// An answer whose blob no block included yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Awaited {
    /// The blob's versioned hash.
    blob_hash: B256,
    /// Block time of the completion, unix seconds.
    completed_at: u64,
}

impl DisputerCore {
    /// Notes what a block includes. Of what came before any job that is still open was submitted nothing is kept.
    pub(super) fn note_blobs(&mut self, block: &FeedBlock) {
        let longest = self.params().map_or(u64::MAX, |p| p.ack_timeout.saturating_add(p.completion_timeout));
        let known = self.blobs.iter().map(|(number, (time, _))| (*number, *time));
        let old: Vec<u64> = known
            .take_while(|(_, time)| time.saturating_add(longest) < block.timestamp)
            .map(|(number, _)| number)
            .collect();
        for number in old {
            self.blobs.remove(&number);
        }
        if block.blobs.is_empty() {
            return;
        }
        let hashes: Vec<B256> = block.blobs.iter().map(|blob| blob.versioned_hash).collect();
        let came: Vec<(u64, JobId)> = self
            .awaited
            .iter()
            .filter(|(_, awaited)| hashes.contains(&awaited.blob_hash))
            .map(|(key, _)| *key)
            .collect();
        for key in came {
            self.awaited.remove(&key);
        }
        self.blobs.insert(block.number, (block.timestamp, hashes));
    }

    /// A job was completed: the blob came since the submission, or may come for as long as a reorg reaches.
    pub(super) fn await_blob(&mut self, block: &FeedBlock, job: JobId) {
        let Some(row) = self.jobs.get(&job) else { return };
        let Some(answer) = row.answer else { return };
        let since = self.blobs.range(row.submitted_in.number..);
        if since.map(|(_, (_, hashes))| hashes).any(|hashes| hashes.contains(&answer.blob_hash)) {
            return;
        }
        let due = block.number.saturating_add(self.config.reorg_depth);
        let awaited = Awaited { blob_hash: answer.blob_hash, completed_at: block.timestamp };
        self.awaited.insert((due, job), awaited);
    }

    /// What never came convicts: a canary, and whoever is disputed. Where blocks are slow, half the dispute window is enough.
    pub(super) fn find_unpublished(
        &mut self,
        block: &FeedBlock,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let half = self.params().map_or(u64::MAX, |params| params.dispute_window / 2);
        let is_due = |due: u64, awaited: &Awaited| {
            due <= block.number || awaited.completed_at.saturating_add(half) <= block.timestamp
        };
        let due: Vec<((u64, JobId), Awaited)> = self
            .awaited
            .iter()
            .filter(|(key, awaited)| is_due(key.0, awaited))
            .map(|(key, awaited)| (*key, *awaited))
            .collect();
        for (key, awaited) in due {
            self.awaited.remove(&key);
            self.jobs.update(&key.1, |row| row.unpublished = true);
            let Some(params) = self.params().filter(|params| params.disputer == self.config.account) else {
                continue;
            };
            let window = params.dispute_window;
            let ended =
                self.jobs.get(&key.1).and_then(|row| row.dispute.as_ref()).map(|d| d.outcome.is_some());
            let Some(mut case) = self.case(key.1) else { continue };
            match ended {
                Some(true) => continue,
                Some(false) => {}
                None if case.ours => case.deadline = awaited.completed_at.saturating_add(window),
                None => continue,
            }
            let (origin, subject, by) = (block.block_ref(), case.subject.id(), Some(case.deadline));
            let (head, again) = (EffectDepth::Head, OnRepeat::Again);
            effects.push(origin, subject, action::JUDGE_UNPUBLISHED, head, again, by, &case)?;
        }
        Ok(())
    }
}
