// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IGuarded} from "./IGuarded.sol";

/// @title JobRegistry interface of the live network
/// @notice Sessions, jobs, escrow and disputes of the inference market. Every entry is part of the interface deployed wallets, workers and SDKs call: never change one.
interface IJobRegistry is IGuarded {
    enum JobState {
        Submitted,
        Acknowledged,
        Completed,
        TimedOut,
        Disputed,
        Resolved,
        Released
    }

    enum SessionStatus {
        Active,
        Reassigning,
        Closed
    }

    struct Job {
        uint256 sessionId;
        address worker;
        JobState state;
        uint256 escrowedFee;
        bytes32 promptBlobHash;
        bytes32 responseBlobHash;
        uint256 submittedAt;
        uint256 ackTimestamp;
        uint256 completedAt;
        uint256 deadline;
        address disputeFiler;
        uint256 disputeBond;
        bytes32 reExecutionBlobHash;
        uint256 similarityScore;
        uint256 disputeCreatedAt;
        bytes32 responseCiphertextHash;
        uint256 submitBlockNumber;
        uint256 completionBlockNumber;
    }

    struct Session {
        address user;
        bytes32 modelId;
        address worker;
        SessionStatus status;
        bytes encWorkerKey;
        bytes encDisputerKey;
        uint256 jobCount;
        uint256 lastActivityAt;
        uint256 reassignCount;
        uint256 deposit;
        address[] excludedWorkers;
    }

    event DelegateAllowanceSet(address indexed user, address indexed delegate, uint256 allowance);
    event DelegateAuthorizationSet(address indexed user, address indexed delegate, bool authorized);
    event Deposited(address indexed user, uint256 amount, uint256 newBalance);
    event DisputeCreated(uint256 indexed jobId, address indexed disputer);
    event DisputeDefaulted(uint256 indexed jobId);
    event DisputeResolved(uint256 indexed jobId, bool workerGuilty, uint256 similarityScore);
    event FeeDistributed(uint256 indexed jobId, uint256 workerShare, uint256 protocolShare, uint256 feePoolShare);
    event JobAcknowledged(uint256 indexed jobId, address indexed worker);
    event JobCompleted(uint256 indexed jobId, address indexed worker, bytes32 responseBlobHash, bytes32 responseCiphertextHash);
    event JobReleased(uint256 indexed jobId, uint256 workerShare, uint256 protocolShare, uint256 feePoolShare);
    event JobSettledNoFault(uint256 indexed jobId, uint256 refundAmount);
    event JobSubmitted(uint256 indexed jobId, uint256 indexed sessionId, address worker);
    event JobTimedOut(uint256 indexed jobId, address indexed worker, uint256 slashAmount);
    event KeeperBountyPaid(uint256 indexed jobId, address indexed keeper, uint256 amount, uint8 kind);
    event RefundClaimed(address indexed recipient, uint256 amount);
    event RefundCreditedToBalance(address indexed user, uint256 indexed jobId, uint256 amount);
    event RefundEscrowed(address indexed recipient, uint256 amount);
    event ReputationRegistryUpdated(address registry);
    event SessionAdopted(uint256 indexed sessionId, address indexed user, address indexed worker);
    event SessionClosed(uint256 indexed sessionId);
    event SessionCreated(uint256 indexed sessionId, address indexed user, bytes32 indexed modelId, address worker, bytes encWorkerKey, bytes encDisputerKey);
    event SessionKeyUpdated(uint256 indexed sessionId, bytes encWorkerKey, bytes encDisputerKey);
    event SessionReassigned(uint256 indexed sessionId, address newWorker);
    event TransferFailed(address indexed to, uint256 amount);
    event Withdrew(address indexed user, uint256 amount, uint256 newBalance);
    event WorkerWithdrawal(address indexed worker, uint256 amount);
    error DeadlineExceeded(uint256 jobId, uint256 deadline, uint256 currentTime);
    error DisputeResolutionNotTimedOut(uint256 jobId, uint256 deadline, uint256 currentTime);
    error DisputeWindowExpired(uint256 jobId, uint256 windowEnd, uint256 currentTime);
    error DisputeWindowNotElapsed(uint256 jobId, uint256 windowEnd, uint256 currentTime);
    error EtherTransferFailed();
    error InsufficientBalance(address user, uint256 required, uint256 available);
    error InsufficientDelegateAllowance(address user, address delegate, uint256 required, uint256 available);
    error InsufficientDisputeBond(uint256 required, uint256 provided);
    error InsufficientFee(uint256 required, uint256 provided);
    error InvalidDispatcherSignature();
    error InvalidResponseCiphertextHash();
    error InvalidSessionKey();
    error InvalidWorkerSignature();
    error JobNotFound(uint256 jobId);
    error JobNotInState(uint256 jobId, uint8 expected, uint8 actual);
    error MaxReassignmentsExceeded(uint256 sessionId, uint256 max);
    error ModelDisabled(bytes32 modelId);
    error NoAvailableWorker(bytes32 modelId);
    error NoBalanceToWithdraw(address worker);
    error NoBlobMismatch(uint256 jobId);
    error NoFaultWindowNotReached(uint256 jobId, uint256 availableAt, uint256 currentTime);
    error NoPendingRefund(address account);
    error NotAuthorizedDelegate(address user, address delegate);
    error NotDisputer(address caller, address expected);
    error NotJobWorker(uint256 jobId, address caller, address worker);
    error NotSessionManager();
    error NotSessionOwner(uint256 sessionId, address caller, address owner);
    error NotTimedOut(uint256 jobId, uint256 deadline, uint256 currentTime);
    error SessionNotActive(uint256 sessionId);
    error SessionNotFound(uint256 sessionId);
    error SessionNotReassigning(uint256 sessionId);
    error SignatureExpired(uint256 expiry, uint256 currentTime);
    error SortitionDisabled();
    error UnauthorizedDisputeCaller(uint256 jobId, address caller);
    error UnexpectedETH();
    error WorkerNotEligible(address worker, bytes32 modelId);
    error ZeroAddress();
    error ZeroDeposit();
    function acknowledgeJob(uint256 jobId) external;
    function adoptSession(address user, bytes32 modelId, address worker, bytes calldata encWorkerKey, bytes calldata encDisputerKey) external returns (uint256 sessionId);
    function claimRefund() external;
    function claimTimeout(uint256 jobId) external;
    function closeSession(uint256 sessionId) external;
    function completeJob(uint256 jobId, bytes32 responseBlobHash, bytes32 responseCiphertextHash) external;
    function createSession(bytes32 modelId, address worker, bytes calldata encWorkerKey, bytes calldata encDisputerKey, bytes calldata dispatcherSignature, uint256 expiry) external payable returns (uint256 sessionId);
    function delegateAllowance(address user, address delegate) external view returns (uint256);
    function deposit() external payable;
    function depositAndAuthorize(address delegate) external payable;
    function disputeJob(uint256 jobId) external payable;
    function disputeResponseMismatch(uint256 jobId, bytes calldata ciphertext, bytes calldata signature) external;
    function getJob(uint256 jobId) external view returns (Job memory);
    function getSession(uint256 sessionId) external view returns (Session memory);
    function initialize(address _initialOwner, address _workerRegistry, address _aiConfig, address _treasury, address _feePool, address _guardian) external;
    function isDelegateAuthorized(address user, address delegate) external view returns (bool);
    function nonce(address account) external view returns (uint256);
    function pendingRefund(address account) external view returns (uint256);
    function prepaidBalanceOf(address user) external view returns (uint256);
    function reassignSession(uint256 sessionId) external;
    function releaseJob(uint256 jobId) external;
    function releaseJobs(uint256[] calldata jobIds) external;
    function reputationRegistry() external view returns (address);
    function resolveDispute(uint256 jobId, bool workerGuilty, bytes32 reExecutionBlobHash, uint256 _similarityScore) external;
    function setDelegateAllowance(address delegate, uint256 allowance) external;
    function setDelegateAuthorization(address delegate, bool authorized) external;
    function setReputationRegistry(address registry) external;
    function settleStuckJob(uint256 jobId) external;
    function submitJob(uint256 sessionId, bytes32 blobHash) external payable returns (uint256 jobId);
    function submitJobOnBehalf(address user, uint256 sessionId, bytes32 blobHash) external returns (uint256 jobId);
    function updateSessionKey(uint256 sessionId, bytes calldata encWorkerKey, bytes calldata encDisputerKey, bytes calldata dispatcherSignature, uint256 expiry) external;
    function withdraw() external;
    function withdrawBalance(uint256 amount) external;
    function workerBalance(address worker) external view returns (uint256);
}
