// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title What WorkerRegistry adds to the live interface
interface IWorkerRegistryExtra {
    event EncryptionKeyRotated(address indexed worker, bytes encryptionPubKey);
    /// @notice The worker (re)entered the eligible set of a model.
    event WorkerActivated(address indexed worker, bytes32 indexed modelId);

    error TooManyModels(address worker, uint256 max);

    function rotateEncryptionKey(bytes calldata encryptionPubKey) external;
    function syncEligibility(address worker) external;
    function getSupportedModels(address worker) external view returns (bytes32[] memory);
    function getWeightSince(address worker) external view returns (uint256);
}
