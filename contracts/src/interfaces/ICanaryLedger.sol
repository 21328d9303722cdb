// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title CanaryLedger interface (ours; the live network has none)
interface ICanaryLedger {
    struct Epoch {
        bytes32 root;
        uint64 committedAt;
        uint64 revealedAt;
        bytes32 seed;
    }

    event CanaryCommitted(uint256 indexed epoch, bytes32 root);
    event CanaryRevealed(uint256 indexed epoch, bytes32 seed, uint256[] jobIds);

    error AlreadyCommitted(uint256 epoch);
    error AlreadyRevealed(uint256 epoch);
    error CanaryOlderThanCommitment(uint256 jobId);
    error CanaryRevealedTwice(uint256 jobId);
    error InvalidRoot();
    error NotCommitted(uint256 epoch);
    error NotDisputer(address caller, address expected);
    error TooManyJobs(uint256 count, uint256 max);
    error WrongSeed(uint256 epoch);
    error ZeroAddress();

    function initialize(address initialOwner, address jobRegistry_, address aiConfig_) external;
    function commit(uint256 epoch, bytes32 root) external;
    function reveal(uint256 epoch, bytes32 seed, uint256[] calldata jobIds) external;
    function rootOf(uint256 epoch, bytes32 seed) external view returns (bytes32);
    function getEpoch(uint256 epoch) external view returns (Epoch memory);
    function isCanary(uint256 jobId) external view returns (bool);
    function jobRegistry() external view returns (address);
    function aiConfig() external view returns (address);
    function DOMAIN() external view returns (bytes32);
    function MAX_JOBS() external view returns (uint256);
}
