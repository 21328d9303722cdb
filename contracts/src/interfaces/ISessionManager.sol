// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title SessionManager interface of the live network
/// @notice On-chain sortition of a worker for a session. Every entry is part of the interface deployed wallets, workers and SDKs call: never change one.
interface ISessionManager {
    enum ReqStatus {
        Open,
        Claimed,
        Ready,
        Expired
    }

    struct Request {
        address user;
        bytes32 modelId;
        uint64 requestBlock;
        uint64 expiry;
        address worker;
        ReqStatus status;
    }

    event SessionClaimed(uint256 indexed reqId, address indexed worker);
    event SessionReady(uint256 indexed reqId, uint256 indexed sessionId);
    event SessionRequested(uint256 indexed reqId, address indexed user, bytes32 indexed modelId, uint256 requestBlock);
    error AlreadyClaimed(uint256 reqId);
    error MissingCapabilities(address worker, uint256 requiredMask);
    error NotAuthorizedDelegate(address user, address delegate);
    error NotRequestOwner(uint256 reqId);
    error NotSortitionEligible(address worker);
    error RequestExpired(uint256 reqId);
    error RequestNotClaimed(uint256 reqId);
    error RequestNotOpen(uint256 reqId);
    error SeedNotReady(uint256 reqId);
    error SortitionDisabled();
    error UnknownCapabilityBits(uint256 mask);
    error WorkerAtCapacity(address worker);
    error WorkerNotEligibleForClaim(address worker);
    error ZeroAddress();
    function claimSession(uint256 reqId) external;
    function eligibleNow(uint256 reqId, address worker) external view returns (bool);
    function getRequest(uint256 reqId) external view returns (Request memory);
    function getRequiredCapabilities(uint256 reqId) external view returns (uint256);
    function initialize(address initialOwner, address jobRegistry_, address workerRegistry_, address aiConfig_, address reputation_) external;
    function provideSessionKey(uint256 reqId, bytes calldata encWorkerKey, bytes calldata encDisputerKey) external;
    function provideSessionKeyFor(address user, uint256 reqId, bytes calldata encWorkerKey, bytes calldata encDisputerKey) external;
    function requestSession(bytes32 modelId, uint256 expiry) external returns (uint256 reqId);
    function requestSessionFor(address user, bytes32 modelId, uint256 expiry) external returns (uint256 reqId);
    function requestSessionForWithCapabilities(address user, bytes32 modelId, uint256 expiry, uint256 requiredCaps) external returns (uint256 reqId);
    function requestSessionWithCapabilities(bytes32 modelId, uint256 expiry, uint256 requiredCaps) external returns (uint256 reqId);
}
