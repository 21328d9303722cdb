// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IAIConfig} from "../interfaces/IAIConfig.sol";
import {IJobRegistry} from "../interfaces/IJobRegistry.sol";
import {IReputationRegistry} from "../interfaces/IReputationRegistry.sol";
import {IWorkerRegistry} from "../interfaces/IWorkerRegistry.sol";

/// @title JobStorage
/// @notice Storage of JobRegistry, shared with its linked libraries. Every struct is append only (see
/// storage-layout/): members may be added at the end, none may move.
library JobStorage {
    struct Session {
        // slot 0: all that a submission changes
        address user;
        uint40 lastActivityAt;
        IJobRegistry.SessionStatus status;
        uint32 jobCount;
        uint16 reassignCount;
        // slot 1
        bytes32 modelId;
        // slot 2
        address worker;
        // slots 3 and 4: heads of 125-byte wrapped keys
        bytes encWorkerKey;
        bytes encDisputerKey;
        // slot 5
        address[] excludedWorkers;
    }

    struct Job {
        // slot 0
        address worker;
        IJobRegistry.JobState state;
        bool prepaid;
        uint40 submittedAt;
        uint40 ackTimestamp;
        // slot 1
        uint96 escrowedFee;
        uint64 sessionId;
        uint40 deadline;
        uint48 submitBlockNumber;
        // A resolved job whose fee went back: nothing is left to release, whatever the fee was.
        bool refunded;
        // slot 2
        bytes32 promptBlobHash;
        // slot 3: written at completion
        uint40 completedAt;
        uint48 completionBlockNumber;
        // slots 4 and 5
        bytes32 responseBlobHash;
        bytes32 responseCiphertextHash;
    }

    struct Dispute {
        // slot 0
        address filer;
        uint40 createdAt;
        uint16 similarityScore;
        // slot 1
        uint128 bond;
        // slot 2
        bytes32 reExecutionBlobHash;
    }

    /// @dev One slot, so that submission and release of a busy worker touch no fresh one.
    struct WorkerAccount {
        uint128 balance;
        uint32 openJobs;
    }

    struct Delegate {
        bool authorized;
        uint256 allowance;
    }

    struct State {
        IWorkerRegistry workerRegistry;
        IAIConfig aiConfig;
        IReputationRegistry reputationRegistry;
        address treasury;
        address feePool;
        uint64 sessionCount;
        uint64 jobCount;
        mapping(uint256 sessionId => Session) sessions;
        mapping(uint256 jobId => Job) jobs;
        mapping(uint256 jobId => Dispute) disputes;
        mapping(address worker => WorkerAccount) workers;
        mapping(address user => uint256) prepaid;
        mapping(address account => uint256) pendingRefunds;
        mapping(address user => uint256) nonces;
        mapping(address user => mapping(address delegate => Delegate)) delegates;
    }

    function session(State storage s, uint256 sessionId) internal view returns (Session storage x) {
        x = s.sessions[sessionId];
        if (x.user == address(0)) revert IJobRegistry.SessionNotFound(sessionId);
    }

    function job(State storage s, uint256 jobId) internal view returns (Job storage x) {
        x = s.jobs[jobId];
        if (x.worker == address(0)) revert IJobRegistry.JobNotFound(jobId);
    }

    function expectState(uint256 jobId, Job storage j, IJobRegistry.JobState expected) internal view {
        if (j.state != expected) revert IJobRegistry.JobNotInState(jobId, uint8(expected), uint8(j.state));
    }
}
