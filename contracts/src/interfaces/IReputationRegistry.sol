// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title ReputationRegistry interface of the live network
/// @notice Scores of workers, written by JobRegistry only. Every entry is part of the interface deployed wallets, workers and SDKs call: never change one.
interface IReputationRegistry {
    struct WorkerReputation {
        uint64 score;
        uint32 completions;
        uint32 disputesLost;
        uint32 timeouts;
        bool initialized;
    }

    event ReputationParamsUpdated(uint64 completionReward, uint64 disputeWinReward, uint64 timeoutPenalty, uint64 disputeLossPenalty);
    event ReputationUpdated(address indexed worker, uint64 newScore, uint8 reason);
    error InvalidParam();
    error NotAuthorized(address caller);
    error ZeroAddress();
    function MAX_SCORE() external view returns (uint64);
    function START_SCORE() external view returns (uint64);
    function getReputation(address worker) external view returns (WorkerReputation memory);
    function getScore(address worker) external view returns (uint256);
    function initialize(address _initialOwner, address _jobRegistry) external;
    function jobRegistry() external view returns (address);
    function recordCompletion(address worker) external;
    function recordDisputeLoss(address worker) external;
    function recordDisputeWin(address worker) external;
    function recordTimeout(address worker) external;
    function setParams(uint64 completionReward, uint64 disputeWinReward, uint64 timeoutPenalty, uint64 disputeLossPenalty) external;
}
