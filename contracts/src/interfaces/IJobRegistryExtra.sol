// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title What JobRegistry adds to the live interface
interface IJobRegistryExtra {
    /// @notice Escrow of a new job: who pays, how much (wei), for which blob, until when it must be acknowledged.
    event JobFunded(
        uint256 indexed jobId,
        address indexed user,
        uint256 fee,
        bool prepaid,
        bytes32 promptBlobHash,
        uint256 deadline
    );
    /// @notice The escrow of a job went back to its user.
    event JobRefunded(uint256 indexed jobId, address indexed user, uint256 amount);
    /// @notice A dispute's bond left escrow: back to its filer, or forfeited to the worker.
    event DisputeBondPaid(uint256 indexed jobId, address indexed to, uint256 amount);
    /// @notice Evidence of a verdict.
    event DisputeEvidence(uint256 indexed jobId, address indexed filer, bytes32 reExecutionBlobHash);
    event PayeesUpdated(address treasury, address feePool);

    error BlobNotFound(uint256 blobIndex);
    error FeeAboveMaximum(uint256 fee, uint256 maxFee);
    error InvalidUserSignature();
    error InvalidSimilarityScore(uint256 score);
    error LengthMismatch();
    error WorkerAtCapacity(address worker);

    // Thrown by OpenZeppelin's ECDSA inside the linked libraries.
    error ECDSAInvalidSignature();
    error ECDSAInvalidSignatureLength(uint256 length);
    error ECDSAInvalidSignatureS(bytes32 s);

    function submitJobWithBlob(
        uint256 sessionId,
        uint256 blobIndex,
        uint256 maxFee,
        uint256 expiry,
        bytes calldata userSig
    ) external payable returns (uint256 jobId);
    function submitJobsWithBlobs(
        uint256[] calldata sessionIds,
        uint256[] calldata blobIndexes,
        uint256[] calldata maxFees,
        uint256[] calldata expiries,
        bytes[] calldata userSigs
    ) external payable returns (uint256[] memory jobIds);
    function completeJobWithBlob(uint256 jobId, uint256 blobIndex, bytes32 ciphertextHash, bytes calldata workerSig)
        external;
    function completeJobsWithBlobs(
        uint256[] calldata jobIds,
        uint256[] calldata blobIndexes,
        bytes32[] calldata ciphertextHashes,
        bytes[] calldata workerSigs
    ) external;
    function claimRefundFor(address account) external;
    function setPayees(address treasury_, address feePool_) external;
    function DOMAIN_SEPARATOR() external view returns (bytes32);
    function workerRegistry() external view returns (address);
    function aiConfig() external view returns (address);
    function treasury() external view returns (address);
    function feePool() external view returns (address);
    function sessionCount() external view returns (uint256);
    function jobCount() external view returns (uint256);
    function openJobCount(address worker) external view returns (uint256);
}
