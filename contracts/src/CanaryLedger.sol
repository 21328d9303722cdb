// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {Initializable} from "@openzeppelin/contracts-upgradeable/proxy/utils/Initializable.sol";
import {IAIConfig} from "./interfaces/IAIConfig.sol";
import {ICanaryLedger} from "./interfaces/ICanaryLedger.sol";
import {IJobRegistry} from "./interfaces/IJobRegistry.sol";

/// @title CanaryLedger
/// @notice Holds the disputer to its canaries: it commits to an epoch's seed before it sends the jobs made from it,
/// and reveals seed and jobs afterwards. Whoever derives the canaries from the seed can then check that none was
/// invented after an answer was seen.
contract CanaryLedger is Initializable, OwnableUpgradeable, UUPSUpgradeable, ICanaryLedger {
    bytes32 public constant DOMAIN = keccak256("lcai canary v1");
    /// @dev Bounds one reveal's walk over its jobs.
    uint256 public constant MAX_JOBS = 256;

    /// @dev Append only (see storage-layout/).
    struct State {
        IJobRegistry jobRegistry;
        IAIConfig aiConfig;
        mapping(uint256 epoch => Epoch) epochs;
        mapping(uint256 jobId => uint256) epochOfCanary;
    }

    State private _s;

    modifier onlyDisputer() {
        address disputer = _s.aiConfig.getDisputerAddress();
        if (msg.sender != disputer) revert NotDisputer(msg.sender, disputer);
        _;
    }

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor() {
        _disableInitializers();
    }

    function initialize(address initialOwner, address jobRegistry_, address aiConfig_) external initializer {
        if (jobRegistry_ == address(0) || aiConfig_ == address(0)) revert ZeroAddress();
        __Ownable_init(initialOwner);
        _s.jobRegistry = IJobRegistry(jobRegistry_);
        _s.aiConfig = IAIConfig(aiConfig_);
    }

    /// @param root keccak256(abi.encode(DOMAIN, epoch, seed)), see `rootOf`
    function commit(uint256 epoch, bytes32 root) external onlyDisputer {
        if (root == bytes32(0)) revert InvalidRoot();
        Epoch storage e = _s.epochs[epoch];
        if (e.root != bytes32(0)) revert AlreadyCommitted(epoch);
        e.root = root;
        e.committedAt = uint64(block.timestamp);
        emit CanaryCommitted(epoch, root);
    }

    /// @notice Every job must be younger than the commitment and belong to one epoch only.
    function reveal(uint256 epoch, bytes32 seed, uint256[] calldata jobIds) external onlyDisputer {
        Epoch storage e = _s.epochs[epoch];
        if (e.root == bytes32(0)) revert NotCommitted(epoch);
        if (e.revealedAt != 0) revert AlreadyRevealed(epoch);
        if (rootOf(epoch, seed) != e.root) revert WrongSeed(epoch);
        if (jobIds.length > MAX_JOBS) revert TooManyJobs(jobIds.length, MAX_JOBS);
        e.revealedAt = uint64(block.timestamp);
        e.seed = seed;
        for (uint256 i = 0; i < jobIds.length; ++i) {
            uint256 jobId = jobIds[i];
            // An equal timestamp could be a job of the committing block that came before the commitment.
            if (_s.jobRegistry.getJob(jobId).submittedAt <= e.committedAt) revert CanaryOlderThanCommitment(jobId);
            if (_s.epochOfCanary[jobId] != 0) revert CanaryRevealedTwice(jobId);
            // Stored plus one: epoch zero is an epoch.
            _s.epochOfCanary[jobId] = epoch + 1;
        }
        emit CanaryRevealed(epoch, seed, jobIds);
    }

    function rootOf(uint256 epoch, bytes32 seed) public pure returns (bytes32) {
        return keccak256(abi.encode(DOMAIN, epoch, seed));
    }

    function getEpoch(uint256 epoch) external view returns (Epoch memory) {
        return _s.epochs[epoch];
    }

    function isCanary(uint256 jobId) external view returns (bool) {
        return _s.epochOfCanary[jobId] != 0;
    }

    function jobRegistry() external view returns (address) {
        return address(_s.jobRegistry);
    }

    function aiConfig() external view returns (address) {
        return address(_s.aiConfig);
    }

    function _authorizeUpgrade(address) internal override onlyOwner {}
}
