// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {Initializable} from "@openzeppelin/contracts-upgradeable/proxy/utils/Initializable.sol";
import {IReputationRegistry} from "./interfaces/IReputationRegistry.sol";

/// @title ReputationRegistry
/// @notice One score per worker, moved by what JobRegistry saw settle. Draws weigh a worker by stake times score.
contract ReputationRegistry is Initializable, OwnableUpgradeable, UUPSUpgradeable, IReputationRegistry {
    uint64 public constant MAX_SCORE = 10_000;
    /// @notice What a worker never seen before has.
    uint64 public constant START_SCORE = 5_000;
    /// @notice A score never falls below this, so that a worker can earn its way back.
    uint64 public constant MIN_SCORE = 100;

    /// @dev Values of ReputationUpdated.reason.
    uint8 private constant COMPLETION = 0;
    uint8 private constant DISPUTE_WIN = 1;
    uint8 private constant TIMEOUT = 2;
    uint8 private constant DISPUTE_LOSS = 3;

    /// @dev Append only (see storage-layout/). A WorkerReputation is one slot.
    struct State {
        address jobRegistry;
        uint64 completionReward;
        uint64 disputeWinReward;
        uint64 timeoutPenalty;
        uint64 disputeLossPenalty;
        mapping(address worker => WorkerReputation) reputations;
    }

    State private _s;

    modifier onlyJobRegistry() {
        if (msg.sender != _s.jobRegistry) revert NotAuthorized(msg.sender);
        _;
    }

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor() {
        _disableInitializers();
    }

    function initialize(address _initialOwner, address _jobRegistry) external initializer {
        if (_jobRegistry == address(0)) revert ZeroAddress();
        __Ownable_init(_initialOwner);
        _s.jobRegistry = _jobRegistry;
        _setParams(10, 50, 250, 1000);
    }

    function setParams(
        uint64 completionReward,
        uint64 disputeWinReward,
        uint64 timeoutPenalty,
        uint64 disputeLossPenalty
    ) external onlyOwner {
        _setParams(completionReward, disputeWinReward, timeoutPenalty, disputeLossPenalty);
    }

    function recordCompletion(address worker) external onlyJobRegistry {
        WorkerReputation storage r = _seen(worker);
        if (r.completions != type(uint32).max) ++r.completions;
        _raise(worker, r, _s.completionReward, COMPLETION);
    }

    function recordDisputeWin(address worker) external onlyJobRegistry {
        _raise(worker, _seen(worker), _s.disputeWinReward, DISPUTE_WIN);
    }

    function recordTimeout(address worker) external onlyJobRegistry {
        WorkerReputation storage r = _seen(worker);
        if (r.timeouts != type(uint32).max) ++r.timeouts;
        _lower(worker, r, _s.timeoutPenalty, TIMEOUT);
    }

    function recordDisputeLoss(address worker) external onlyJobRegistry {
        WorkerReputation storage r = _seen(worker);
        if (r.disputesLost != type(uint32).max) ++r.disputesLost;
        _lower(worker, r, _s.disputeLossPenalty, DISPUTE_LOSS);
    }

    function jobRegistry() external view returns (address) {
        return _s.jobRegistry;
    }

    /// @notice As recorded; `initialized` is false and the score zero for a worker never seen.
    function getReputation(address worker) external view returns (WorkerReputation memory) {
        return _s.reputations[worker];
    }

    function getScore(address worker) external view returns (uint256) {
        WorkerReputation storage r = _s.reputations[worker];
        return r.initialized ? r.score : START_SCORE;
    }

    function _seen(address worker) private returns (WorkerReputation storage r) {
        r = _s.reputations[worker];
        if (r.initialized) return r;
        r.initialized = true;
        r.score = START_SCORE;
    }

    function _raise(address worker, WorkerReputation storage r, uint64 by, uint8 reason) private {
        uint64 score = r.score + by;
        r.score = score > MAX_SCORE ? MAX_SCORE : score;
        emit ReputationUpdated(worker, r.score, reason);
    }

    function _lower(address worker, WorkerReputation storage r, uint64 by, uint8 reason) private {
        uint64 score = r.score;
        r.score = score > MIN_SCORE + by ? score - by : MIN_SCORE;
        emit ReputationUpdated(worker, r.score, reason);
    }

    function _setParams(uint64 completion, uint64 disputeWin, uint64 timeout, uint64 disputeLoss) private {
        if (completion > MAX_SCORE || disputeWin > MAX_SCORE || timeout > MAX_SCORE || disputeLoss > MAX_SCORE) {
            revert InvalidParam();
        }
        _s.completionReward = completion;
        _s.disputeWinReward = disputeWin;
        _s.timeoutPenalty = timeout;
        _s.disputeLossPenalty = disputeLoss;
        emit ReputationParamsUpdated(completion, disputeWin, timeout, disputeLoss);
    }

    function _authorizeUpgrade(address) internal override onlyOwner {}
}
