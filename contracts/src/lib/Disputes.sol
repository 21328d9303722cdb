// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IAIConfig} from "../interfaces/IAIConfig.sol";
import {IJobRegistry} from "../interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "../interfaces/IJobRegistryExtra.sol";
import {IReputationRegistry} from "../interfaces/IReputationRegistry.sol";
import {JobStorage} from "./JobStorage.sol";
import {Payments} from "./Payments.sol";
import {Reputation} from "./Reputation.sol";

/// @title Disputes
/// @notice Linked library of JobRegistry: filing, verdict, default and the response-mismatch proof.
library Disputes {
    using JobStorage for JobStorage.State;
    using Payments for JobStorage.State;

    uint256 private constant BPS = 10_000;

    /// @notice Files a dispute against a completed job; what exceeds the bond goes back to the caller.
    function file(JobStorage.State storage s, uint256 jobId) external {
        JobStorage.Job storage j = s.job(jobId);
        IAIConfig config = s.aiConfig;
        if (msg.sender != s.sessions[j.sessionId].user && msg.sender != config.getDisputerAddress()) {
            revert IJobRegistry.UnauthorizedDisputeCaller(jobId, msg.sender);
        }
        JobStorage.expectState(jobId, j, IJobRegistry.JobState.Completed);
        uint256 windowEnd = j.completedAt + config.getDisputeWindow();
        if (block.timestamp > windowEnd) revert IJobRegistry.DisputeWindowExpired(jobId, windowEnd, block.timestamp);
        uint256 bond = uint256(j.escrowedFee) * config.getDisputeBondMultiplier() / BPS;
        if (msg.value < bond) revert IJobRegistry.InsufficientDisputeBond(bond, msg.value);
        j.state = IJobRegistry.JobState.Disputed;
        JobStorage.Dispute storage d = s.disputes[jobId];
        d.filer = msg.sender;
        d.createdAt = SafeCast.toUint40(block.timestamp);
        d.bond = SafeCast.toUint128(bond);
        emit IJobRegistry.DisputeCreated(jobId, msg.sender);
        s.push(msg.sender, msg.value - bond);
    }

    /// @notice The disputer's verdict. Guilty: slash, fee to the user, bond to the filer. Not guilty: bond to the
    /// worker, fee stays for release.
    function resolve(
        JobStorage.State storage s,
        uint256 jobId,
        bool workerGuilty,
        bytes32 reExecutionBlobHash,
        uint256 similarityScore
    ) external {
        JobStorage.Job storage j = s.job(jobId);
        address disputer = s.aiConfig.getDisputerAddress();
        if (msg.sender != disputer) revert IJobRegistry.NotDisputer(msg.sender, disputer);
        JobStorage.expectState(jobId, j, IJobRegistry.JobState.Disputed);
        if (similarityScore > BPS) revert IJobRegistryExtra.InvalidSimilarityScore(similarityScore);
        JobStorage.Dispute storage d = s.disputes[jobId];
        d.reExecutionBlobHash = reExecutionBlobHash;
        d.similarityScore = uint16(similarityScore);
        emit IJobRegistryExtra.DisputeEvidence(jobId, d.filer, reExecutionBlobHash);
        emit IJobRegistry.DisputeResolved(jobId, workerGuilty, similarityScore);
        if (workerGuilty) {
            _convict(s, jobId, j);
        } else {
            address worker = j.worker;
            Reputation.record(s.reputationRegistry, IReputationRegistry.recordDisputeWin.selector, worker);
            j.state = IJobRegistry.JobState.Resolved;
            s.payBond(jobId, worker, true);
        }
    }

    /// @notice The disputer stayed silent: the user gets the fee back and nobody is slashed. The bond returns to its
    /// filer, unless that is the disputer itself: then the worker gets it.
    function defaultRuling(JobStorage.State storage s, uint256 jobId) external {
        JobStorage.Job storage j = s.job(jobId);
        JobStorage.expectState(jobId, j, IJobRegistry.JobState.Disputed);
        JobStorage.Dispute storage d = s.disputes[jobId];
        uint256 deadline = d.createdAt + s.aiConfig.getResolutionTimeout();
        if (block.timestamp <= deadline) {
            revert IJobRegistry.DisputeResolutionNotTimedOut(jobId, deadline, block.timestamp);
        }
        address filer = d.filer;
        j.state = IJobRegistry.JobState.Resolved;
        _closeActive(s, j);
        emit IJobRegistry.DisputeDefaulted(jobId);
        // Filed in the user's own name it is the user's dispute, also when user and disputer are one.
        bool own = filer != s.sessions[j.sessionId].user;
        s.payBond(jobId, own ? j.worker : filer, own);
        s.refund(jobId, j);
    }

    /// @notice Proof that the worker signed another ciphertext than it committed. Anyone may bring it, without a
    /// bond, until the job is released.
    function mismatch(JobStorage.State storage s, uint256 jobId, bytes calldata ciphertext, bytes calldata signature)
        external
    {
        JobStorage.Job storage j = s.job(jobId);
        if (j.state != IJobRegistry.JobState.Disputed) {
            JobStorage.expectState(jobId, j, IJobRegistry.JobState.Completed);
        }
        if (keccak256(ciphertext) == j.responseCiphertextHash) revert IJobRegistry.NoBlobMismatch(jobId);
        bytes32 inner =
            keccak256(abi.encode(block.chainid, address(this), jobId, uint256(j.sessionId), ciphertext));
        if (_recover(inner, signature) != j.worker) revert IJobRegistry.InvalidWorkerSignature();
        emit IJobRegistry.DisputeResolved(jobId, true, 0);
        _convict(s, jobId, j);
    }

    function _convict(JobStorage.State storage s, uint256 jobId, JobStorage.Job storage j) private {
        address worker = j.worker;
        Reputation.record(s.reputationRegistry, IReputationRegistry.recordDisputeLoss.selector, worker);
        j.state = IJobRegistry.JobState.Resolved;
        _closeActive(s, j);
        s.workerRegistry.slash(worker, s.aiConfig.getDisputeSlashBps());
        s.payBond(jobId, s.disputes[jobId].filer, false);
        s.refund(jobId, j);
    }

    function _closeActive(JobStorage.State storage s, JobStorage.Job storage j) private {
        s.workerRegistry.decrementActiveJobs(j.worker, s.sessions[j.sessionId].modelId);
    }

    /// @dev EIP-191 over the 32-byte digest. Workers sign with a recovery id of 0 or 1 (live wire format, section
    /// 6.1), OpenZeppelin takes 27 or 28.
    function _recover(bytes32 inner, bytes memory signature) private pure returns (address) {
        if (signature.length == 65 && uint8(signature[64]) < 27) {
            signature[64] = bytes1(uint8(signature[64]) + 27);
        }
        return ECDSA.recover(MessageHashUtils.toEthSignedMessageHash(inner), signature);
    }
}
