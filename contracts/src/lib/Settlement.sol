// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IAIConfig} from "../interfaces/IAIConfig.sol";
import {IJobRegistry} from "../interfaces/IJobRegistry.sol";
import {IReputationRegistry} from "../interfaces/IReputationRegistry.sol";
import {JobStorage} from "./JobStorage.sol";
import {Payments} from "./Payments.sol";
import {Reputation} from "./Reputation.sol";

/// @title Settlement
/// @notice Linked library of JobRegistry: timeouts, no-fault settlement and release.
library Settlement {
    using JobStorage for JobStorage.State;
    using Payments for JobStorage.State;

    uint256 private constant BPS = 10_000;
    /// @dev Values of KeeperBountyPaid.kind.
    uint8 private constant BOUNTY_TIMEOUT = 0;
    uint8 private constant BOUNTY_RELEASE = 1;

    /// @dev Sums of one release transaction, pushed once at its end.
    struct Totals {
        uint256 protocol;
        uint256 feePool;
        uint256 bounty;
    }

    /// @dev Rates and window read once for a batch.
    struct Rates {
        uint256 worker;
        uint256 feePool;
        uint256 bounty;
        uint256 window;
    }

    /// @notice Settles a job whose worker missed a deadline: slash, bounty to the caller, refund to the user.
    function timeOut(JobStorage.State storage s, uint256 jobId) external {
        JobStorage.Job storage j = s.job(jobId);
        IAIConfig config = s.aiConfig;
        uint256 bps;
        if (j.state == IJobRegistry.JobState.Acknowledged) {
            bps = config.getCompletionTimeoutSlashBps();
        } else {
            JobStorage.expectState(jobId, j, IJobRegistry.JobState.Submitted);
            bps = config.getTimeoutSlashBps();
        }
        if (block.timestamp <= j.deadline) revert IJobRegistry.NotTimedOut(jobId, j.deadline, block.timestamp);
        address worker = j.worker;
        Reputation.record(s.reputationRegistry, IReputationRegistry.recordTimeout.selector, worker);
        j.state = IJobRegistry.JobState.TimedOut;
        --s.workers[worker].openJobs;
        s.workerRegistry.decrementActiveJobs(worker, s.sessions[j.sessionId].modelId);
        (uint256 slashed, uint256 bounty) = s.workerRegistry.slashWithBounty(worker, bps, msg.sender);
        emit IJobRegistry.JobTimedOut(jobId, worker, slashed);
        if (bounty != 0) emit IJobRegistry.KeeperBountyPaid(jobId, msg.sender, bounty, BOUNTY_TIMEOUT);
        s.refund(jobId, j);
    }

    /// @notice The way out when timing a job out keeps failing: after the deadline plus the resolution timeout the
    /// user gets the fee back and nobody is blamed. It depends on no other contract but AIConfig.
    function settleStuck(JobStorage.State storage s, uint256 jobId) external {
        JobStorage.Job storage j = s.job(jobId);
        if (j.state != IJobRegistry.JobState.Acknowledged) {
            JobStorage.expectState(jobId, j, IJobRegistry.JobState.Submitted);
        }
        uint256 availableAt = j.deadline + s.aiConfig.getResolutionTimeout();
        if (block.timestamp < availableAt) {
            revert IJobRegistry.NoFaultWindowNotReached(jobId, availableAt, block.timestamp);
        }
        address worker = j.worker;
        j.state = IJobRegistry.JobState.TimedOut;
        --s.workers[worker].openJobs;
        try s.workerRegistry.decrementActiveJobs(worker, s.sessions[j.sessionId].modelId) {} catch {}
        emit IJobRegistry.JobSettledNoFault(jobId, s.refund(jobId, j));
    }

    /// @notice Pays out completed jobs past their dispute window and resolved jobs that still hold their fee. One job
    /// that cannot be released reverts the batch.
    function release(JobStorage.State storage s, uint256[] memory jobIds) external {
        IAIConfig config = s.aiConfig;
        Rates memory rates = Rates(
            config.getWorkerFeeBps(),
            config.getFeePoolBps(),
            config.getReleaseBountyBps(),
            config.getDisputeWindow()
        );
        Totals memory totals;
        for (uint256 i = 0; i < jobIds.length; ++i) {
            _releaseOne(s, jobIds[i], rates, totals);
        }
        if (totals.bounty != 0) s.credit(msg.sender, totals.bounty);
        s.push(s.treasury, totals.protocol);
        s.push(s.feePool, totals.feePool);
    }

    /// @dev Worker and fee pool get their share rounded down; the protocol gets the rest, less the keeper's bounty.
    /// A worker that releases its own job earns no bounty.
    function _releaseOne(JobStorage.State storage s, uint256 jobId, Rates memory rates, Totals memory totals) private {
        JobStorage.Job storage j = s.job(jobId);
        uint256 fee = j.escrowedFee;
        if (j.state == IJobRegistry.JobState.Resolved) {
            // The fee of a lost dispute is gone already.
            if (j.refunded) JobStorage.expectState(jobId, j, IJobRegistry.JobState.Completed);
        } else {
            JobStorage.expectState(jobId, j, IJobRegistry.JobState.Completed);
            uint256 windowEnd = j.completedAt + rates.window;
            if (block.timestamp <= windowEnd) {
                revert IJobRegistry.DisputeWindowNotElapsed(jobId, windowEnd, block.timestamp);
            }
        }
        address worker = j.worker;
        Reputation.record(s.reputationRegistry, IReputationRegistry.recordCompletion.selector, worker);
        j.state = IJobRegistry.JobState.Released;
        j.escrowedFee = 0;
        s.workerRegistry.decrementActiveJobs(worker, s.sessions[j.sessionId].modelId);

        uint256 workerShare = fee * rates.worker / BPS;
        uint256 feePoolShare = fee * rates.feePool / BPS;
        uint256 protocolShare = fee - workerShare - feePoolShare;
        if (msg.sender != worker) {
            uint256 bounty = fee * rates.bounty / BPS;
            if (bounty > protocolShare) bounty = protocolShare;
            if (bounty != 0) {
                protocolShare -= bounty;
                totals.bounty += bounty;
                emit IJobRegistry.KeeperBountyPaid(jobId, msg.sender, bounty, BOUNTY_RELEASE);
            }
        }
        totals.protocol += protocolShare;
        totals.feePool += feePoolShare;
        s.credit(worker, workerShare);
        emit IJobRegistry.FeeDistributed(jobId, workerShare, protocolShare, feePoolShare);
        emit IJobRegistry.JobReleased(jobId, workerShare, protocolShare, feePoolShare);
    }
}
