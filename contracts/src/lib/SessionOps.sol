// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IAIConfig} from "../interfaces/IAIConfig.sol";
import {IJobRegistry} from "../interfaces/IJobRegistry.sol";
import {JobStorage} from "./JobStorage.sol";
import {TypedData} from "./TypedData.sol";

/// @title SessionOps
/// @notice Linked library of JobRegistry: creation, adoption, reassignment and closing of sessions.
library SessionOps {
    using JobStorage for JobStorage.State;

    /// @dev Length of a session key wrapped for one reader (live wire format, section 1).
    uint256 private constant WRAPPED_KEY_LENGTH = 125;

    /// @notice Creates a session the dispatcher signed for the caller; consumes the caller's nonce.
    function create(
        JobStorage.State storage s,
        bytes32 modelId,
        address worker,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey,
        bytes calldata dispatcherSignature,
        uint256 expiry
    ) external returns (uint256) {
        if (block.timestamp > expiry) revert IJobRegistry.SignatureExpired(expiry, block.timestamp);
        bytes32 structHash = keccak256(
            abi.encode(
                TypedData.SESSION_AUTHORIZATION_TYPEHASH,
                msg.sender,
                modelId,
                worker,
                keccak256(encWorkerKey),
                keccak256(encDisputerKey),
                s.nonces[msg.sender]++,
                expiry
            )
        );
        address dispatcher = s.aiConfig.getDispatcherAddress();
        if (dispatcher == address(0) || TypedData.signer(structHash, dispatcherSignature) != dispatcher) {
            revert IJobRegistry.InvalidDispatcherSignature();
        }
        return _open(s, msg.sender, modelId, worker, encWorkerKey, encDisputerKey);
    }

    /// @notice Creates a session from a claimed and keyed sortition request.
    function adopt(
        JobStorage.State storage s,
        address user,
        bytes32 modelId,
        address worker,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey
    ) external returns (uint256 sessionId) {
        IAIConfig config = s.aiConfig;
        if (msg.sender != config.getSessionManagerAddress()) revert IJobRegistry.NotSessionManager();
        if (!config.getSortitionEnabled()) revert IJobRegistry.SortitionDisabled();
        if (user == address(0)) revert IJobRegistry.ZeroAddress();
        sessionId = _open(s, user, modelId, worker, encWorkerKey, encDisputerKey);
        emit IJobRegistry.SessionAdopted(sessionId, user, worker);
    }

    /// @notice Gives a reassigned session keys for its new worker and opens it again.
    function updateKey(
        JobStorage.State storage s,
        uint256 sessionId,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey,
        bytes calldata dispatcherSignature,
        uint256 expiry
    ) external {
        JobStorage.Session storage x = s.session(sessionId);
        if (msg.sender != x.user) revert IJobRegistry.NotSessionOwner(sessionId, msg.sender, x.user);
        if (x.status != IJobRegistry.SessionStatus.Reassigning) revert IJobRegistry.SessionNotReassigning(sessionId);
        if (block.timestamp > expiry) revert IJobRegistry.SignatureExpired(expiry, block.timestamp);
        address worker = x.worker;
        uint256 nonce = s.nonces[msg.sender]++;
        address dispatcher = s.aiConfig.getDispatcherAddress();
        // Without a dispatcher the chain alone chose the worker and there is nobody left to sign.
        if (dispatcher != address(0)) {
            bytes32 structHash = keccak256(
                abi.encode(
                    TypedData.SESSION_KEY_UPDATE_TYPEHASH,
                    sessionId,
                    worker,
                    keccak256(encWorkerKey),
                    keccak256(encDisputerKey),
                    nonce,
                    expiry
                )
            );
            if (TypedData.signer(structHash, dispatcherSignature) != dispatcher) {
                revert IJobRegistry.InvalidDispatcherSignature();
            }
        }
        _checkKeys(encWorkerKey, encDisputerKey);
        if (!s.workerRegistry.isEligible(worker, x.modelId)) revert IJobRegistry.WorkerNotEligible(worker, x.modelId);
        x.encWorkerKey = encWorkerKey;
        x.encDisputerKey = encDisputerKey;
        x.status = IJobRegistry.SessionStatus.Active;
        x.lastActivityAt = SafeCast.toUint40(block.timestamp);
        emit IJobRegistry.SessionKeyUpdated(sessionId, encWorkerKey, encDisputerKey);
    }

    /// @notice Replaces the worker by an eligible one the session has not had. The owner and its delegates may at any
    /// time, anybody once the worker is no longer eligible. Jobs under way stay with their worker.
    function reassign(JobStorage.State storage s, uint256 sessionId) external {
        JobStorage.Session storage x = s.session(sessionId);
        if (x.status == IJobRegistry.SessionStatus.Closed) revert IJobRegistry.SessionNotActive(sessionId);
        address old = x.worker;
        bytes32 modelId = x.modelId;
        if (
            msg.sender != x.user && !s.delegates[x.user][msg.sender].authorized
                && s.workerRegistry.isEligible(old, modelId)
        ) revert IJobRegistry.NotSessionOwner(sessionId, msg.sender, x.user);
        uint256 max = s.aiConfig.getMaxReassignments();
        uint256 count = x.reassignCount;
        if (count >= max) revert IJobRegistry.MaxReassignmentsExceeded(sessionId, max);
        x.excludedWorkers.push(old);
        uint256 seed =
            uint256(keccak256(abi.encode(blockhash(block.number - 1), block.prevrandao, sessionId, count)));
        address next = _select(s, modelId, x.excludedWorkers, seed);
        x.worker = next;
        x.reassignCount = uint16(count + 1);
        x.status = IJobRegistry.SessionStatus.Reassigning;
        emit IJobRegistry.SessionReassigned(sessionId, next);
    }

    /// @notice Ends a session. Sessions hold no money of their own; open jobs settle as they would have.
    function close(JobStorage.State storage s, uint256 sessionId) external {
        JobStorage.Session storage x = s.session(sessionId);
        if (msg.sender != x.user) revert IJobRegistry.NotSessionOwner(sessionId, msg.sender, x.user);
        if (x.status == IJobRegistry.SessionStatus.Closed) revert IJobRegistry.SessionNotActive(sessionId);
        x.status = IJobRegistry.SessionStatus.Closed;
        emit IJobRegistry.SessionClosed(sessionId);
    }

    function _open(
        JobStorage.State storage s,
        address user,
        bytes32 modelId,
        address worker,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey
    ) private returns (uint256 sessionId) {
        if (!s.aiConfig.isModelEnabled(modelId)) revert IJobRegistry.ModelDisabled(modelId);
        _checkKeys(encWorkerKey, encDisputerKey);
        if (!s.workerRegistry.isEligible(worker, modelId)) revert IJobRegistry.WorkerNotEligible(worker, modelId);
        sessionId = ++s.sessionCount;
        JobStorage.Session storage x = s.sessions[sessionId];
        x.user = user;
        x.lastActivityAt = SafeCast.toUint40(block.timestamp);
        x.modelId = modelId;
        x.worker = worker;
        x.encWorkerKey = encWorkerKey;
        x.encDisputerKey = encDisputerKey;
        emit IJobRegistry.SessionCreated(sessionId, user, modelId, worker, encWorkerKey, encDisputerKey);
    }

    /// @dev Without a disputer's copy nobody can re-execute the session's jobs; that is the user's choice.
    function _checkKeys(bytes calldata encWorkerKey, bytes calldata encDisputerKey) private pure {
        if (
            encWorkerKey.length != WRAPPED_KEY_LENGTH
                || (encDisputerKey.length != 0 && encDisputerKey.length != WRAPPED_KEY_LENGTH)
        ) revert IJobRegistry.InvalidSessionKey();
    }

    function _select(JobStorage.State storage s, bytes32 modelId, address[] memory excluded, uint256 seed)
        private
        view
        returns (address)
    {
        try s.workerRegistry.selectEligibleWorker(modelId, excluded, seed) returns (address next) {
            return next;
        } catch {
            revert IJobRegistry.NoAvailableWorker(modelId);
        }
    }
}
