// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IAIConfig} from "./interfaces/IAIConfig.sol";
import {IJobRegistry} from "./interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "./interfaces/IJobRegistryExtra.sol";
import {IReputationRegistry} from "./interfaces/IReputationRegistry.sol";
import {IWorkerRegistry} from "./interfaces/IWorkerRegistry.sol";
import {Disputes} from "./lib/Disputes.sol";
import {Guarded} from "./lib/Guarded.sol";
import {JobStorage} from "./lib/JobStorage.sol";
import {Payments} from "./lib/Payments.sol";
import {Push} from "./lib/Push.sol";
import {SessionOps} from "./lib/SessionOps.sol";
import {Settlement} from "./lib/Settlement.sol";
import {TypedData} from "./lib/TypedData.sol";

/// @title JobRegistry
/// @notice Sessions, jobs, escrow and disputes. Money held, to the wei: escrowed fees of open jobs, bonds of open
/// disputes, prepaid balances, worker balances and pending refunds.
///
/// Pausing stops what brings new money or new work in: sessions, jobs, deposits. Everything that ends work or pays
/// money out stays open, so that a pause can neither lock a balance nor cost a worker its stake.
contract JobRegistry is ReentrancyGuardTransient, Guarded, IJobRegistry, IJobRegistryExtra {
    using JobStorage for JobStorage.State;
    using Payments for JobStorage.State;
    using SafeCast for uint256;

    JobStorage.State private _s;

    /// @param _treasury receives the protocol share of every fee
    /// @param _feePool receives the validators' share of every fee
    /// @param _guardian may pause until it is sunset; zero for none
    function initialize(
        address _initialOwner,
        address _workerRegistry,
        address _aiConfig,
        address _treasury,
        address _feePool,
        address _guardian
    ) external initializer {
        if (_workerRegistry == address(0) || _aiConfig == address(0)) revert ZeroAddress();
        __Guarded_init(_initialOwner, _guardian);
        _s.workerRegistry = IWorkerRegistry(_workerRegistry);
        _s.aiConfig = IAIConfig(_aiConfig);
        _setPayees(_treasury, _feePool);
    }

    // ---------------------------------------------------------------- sessions

    function createSession(
        bytes32 modelId,
        address worker,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey,
        bytes calldata dispatcherSignature,
        uint256 expiry
    ) external payable whenNotPaused nonReentrant returns (uint256 sessionId) {
        if (msg.value != 0) revert UnexpectedETH();
        return SessionOps.create(_s, modelId, worker, encWorkerKey, encDisputerKey, dispatcherSignature, expiry);
    }

    function adoptSession(
        address user,
        bytes32 modelId,
        address worker,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey
    ) external whenNotPaused nonReentrant returns (uint256 sessionId) {
        return SessionOps.adopt(_s, user, modelId, worker, encWorkerKey, encDisputerKey);
    }

    function updateSessionKey(
        uint256 sessionId,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey,
        bytes calldata dispatcherSignature,
        uint256 expiry
    ) external whenNotPaused nonReentrant {
        SessionOps.updateKey(_s, sessionId, encWorkerKey, encDisputerKey, dispatcherSignature, expiry);
    }

    function reassignSession(uint256 sessionId) external whenNotPaused nonReentrant {
        SessionOps.reassign(_s, sessionId);
    }

    function closeSession(uint256 sessionId) external nonReentrant {
        SessionOps.close(_s, sessionId);
    }

    // -------------------------------------------------------------------- jobs

    /// @notice Submits a prompt blob; the value pays the fee, what exceeds it goes back.
    function submitJob(uint256 sessionId, bytes32 blobHash)
        external
        payable
        whenNotPaused
        nonReentrant
        returns (uint256 jobId)
    {
        JobStorage.Session storage x = _s.session(sessionId);
        if (msg.sender != x.user) revert NotSessionOwner(sessionId, msg.sender, x.user);
        uint256 fee = _fee(x.modelId);
        jobId = _submit(sessionId, x, blobHash, fee, false);
        _takeValue(fee);
    }

    /// @notice Submits for `user` out of the user's prepaid balance and the caller's allowance. A user needs no
    /// allowance to spend its own balance.
    function submitJobOnBehalf(address user, uint256 sessionId, bytes32 blobHash)
        external
        whenNotPaused
        nonReentrant
        returns (uint256 jobId)
    {
        JobStorage.Session storage x = _s.session(sessionId);
        if (user != x.user) revert NotSessionOwner(sessionId, user, x.user);
        uint256 fee = _fee(x.modelId);
        if (msg.sender != user) {
            JobStorage.Delegate storage d = _s.delegates[user][msg.sender];
            if (!d.authorized) revert NotAuthorizedDelegate(user, msg.sender);
            uint256 allowance = d.allowance;
            if (allowance < fee) revert InsufficientDelegateAllowance(user, msg.sender, fee, allowance);
            d.allowance = allowance - fee;
        }
        _takePrepaid(user, fee);
        return _submit(sessionId, x, blobHash, fee, true);
    }

    /// @notice Submits the prompt blob this transaction carries. Anyone may send it with the user's EIP-712
    /// `SubmitJob` signature; the user itself needs none. A value pays the fee (the excess returns to the sender),
    /// without one the user's prepaid balance does. Refunds of the job are the user's in either case.
    function submitJobWithBlob(
        uint256 sessionId,
        uint256 blobIndex,
        uint256 maxFee,
        uint256 expiry,
        bytes calldata userSig
    ) external payable whenNotPaused nonReentrant returns (uint256 jobId) {
        uint256 fee;
        (jobId, fee) = _submitWithBlob(sessionId, blobIndex, maxFee, expiry, userSig);
        if (msg.value != 0) _takeValue(fee);
    }

    /// @notice As many submissions, each as in `submitJobWithBlob`, as the transaction has blobs: of one session or
    /// several, of one user or several. A value pays the fees of all, without one each user's prepaid balance pays its
    /// own. One that fails reverts them all.
    function submitJobsWithBlobs(
        uint256[] calldata sessionIds,
        uint256[] calldata blobIndexes,
        uint256[] calldata maxFees,
        uint256[] calldata expiries,
        bytes[] calldata userSigs
    ) external payable whenNotPaused nonReentrant returns (uint256[] memory jobIds) {
        uint256 n = sessionIds.length;
        if (blobIndexes.length != n || maxFees.length != n || expiries.length != n || userSigs.length != n) {
            revert LengthMismatch();
        }
        jobIds = new uint256[](n);
        uint256 fees;
        for (uint256 i = 0; i < n; ++i) {
            uint256 fee;
            (jobIds[i], fee) =
                _submitWithBlob(sessionIds[i], blobIndexes[i], maxFees[i], expiries[i], userSigs[i]);
            fees += fee;
        }
        if (msg.value != 0) _takeValue(fees);
    }

    function acknowledgeJob(uint256 jobId) external {
        JobStorage.Job storage j = _s.job(jobId);
        if (msg.sender != j.worker) revert NotJobWorker(jobId, msg.sender, j.worker);
        JobStorage.expectState(jobId, j, JobState.Submitted);
        _checkDeadline(jobId, j);
        j.state = JobState.Acknowledged;
        j.ackTimestamp = uint40(block.timestamp);
        j.deadline = (block.timestamp + _s.aiConfig.getCompletionTimeout()).toUint40();
        emit JobAcknowledged(jobId, msg.sender);
    }

    function completeJob(uint256 jobId, bytes32 responseBlobHash, bytes32 responseCiphertextHash) external {
        JobStorage.Job storage j = _s.job(jobId);
        if (msg.sender != j.worker) revert NotJobWorker(jobId, msg.sender, j.worker);
        _complete(jobId, j, responseBlobHash, responseCiphertextHash);
    }

    /// @notice Completes a job with the response blob this transaction carries. Anyone may send it with the worker's
    /// EIP-712 `CompleteJob` signature; the worker itself needs none.
    function completeJobWithBlob(uint256 jobId, uint256 blobIndex, bytes32 ciphertextHash, bytes calldata workerSig)
        public
    {
        JobStorage.Job storage j = _s.job(jobId);
        bytes32 blobHash = _blobHash(blobIndex);
        if (msg.sender != j.worker) {
            bytes32 structHash = keccak256(
                abi.encode(
                    TypedData.COMPLETE_JOB_TYPEHASH,
                    jobId,
                    uint256(j.sessionId),
                    j.promptBlobHash,
                    blobHash,
                    ciphertextHash
                )
            );
            if (TypedData.signer(structHash, workerSig) != j.worker) revert InvalidWorkerSignature();
        }
        _complete(jobId, j, blobHash, ciphertextHash);
    }

    /// @notice As many completions as the transaction has blobs; one that fails reverts them all.
    function completeJobsWithBlobs(
        uint256[] calldata jobIds,
        uint256[] calldata blobIndexes,
        bytes32[] calldata ciphertextHashes,
        bytes[] calldata workerSigs
    ) external {
        uint256 n = jobIds.length;
        if (blobIndexes.length != n || ciphertextHashes.length != n || workerSigs.length != n) revert LengthMismatch();
        for (uint256 i = 0; i < n; ++i) {
            completeJobWithBlob(jobIds[i], blobIndexes[i], ciphertextHashes[i], workerSigs[i]);
        }
    }

    /// @notice Settles what went silent: a worker past its deadline, or a disputer past the resolution timeout.
    function claimTimeout(uint256 jobId) external nonReentrant {
        if (_s.jobs[jobId].state == JobState.Disputed) Disputes.defaultRuling(_s, jobId);
        else Settlement.timeOut(_s, jobId);
    }

    function settleStuckJob(uint256 jobId) external nonReentrant {
        Settlement.settleStuck(_s, jobId);
    }

    function releaseJob(uint256 jobId) external nonReentrant {
        uint256[] memory jobIds = new uint256[](1);
        jobIds[0] = jobId;
        Settlement.release(_s, jobIds);
    }

    function releaseJobs(uint256[] calldata jobIds) external nonReentrant {
        Settlement.release(_s, jobIds);
    }

    // ---------------------------------------------------------------- disputes

    function disputeJob(uint256 jobId) external payable nonReentrant {
        Disputes.file(_s, jobId);
    }

    function resolveDispute(uint256 jobId, bool workerGuilty, bytes32 reExecutionBlobHash, uint256 _similarityScore)
        external
        nonReentrant
    {
        Disputes.resolve(_s, jobId, workerGuilty, reExecutionBlobHash, _similarityScore);
    }

    function disputeResponseMismatch(uint256 jobId, bytes calldata ciphertext, bytes calldata signature)
        external
        nonReentrant
    {
        Disputes.mismatch(_s, jobId, ciphertext, signature);
    }

    // ------------------------------------------------------------------- money

    function deposit() external payable whenNotPaused {
        _deposit();
    }

    /// @notice Deposits, authorises the delegate and raises its allowance by the deposit.
    function depositAndAuthorize(address delegate) external payable whenNotPaused {
        _deposit();
        _authorize(delegate, true);
        // An allowance that is unlimited already stays so.
        uint256 allowance = _s.delegates[msg.sender][delegate].allowance;
        uint256 room = type(uint256).max - allowance;
        _setAllowance(delegate, allowance + (msg.value < room ? msg.value : room));
    }

    function setDelegateAuthorization(address delegate, bool authorized) external {
        _authorize(delegate, authorized);
    }

    function setDelegateAllowance(address delegate, uint256 allowance) external {
        _setAllowance(delegate, allowance);
    }

    function withdrawBalance(uint256 amount) external nonReentrant {
        uint256 balance = _s.prepaid[msg.sender];
        if (amount > balance) revert InsufficientBalance(msg.sender, amount, balance);
        _s.prepaid[msg.sender] = balance - amount;
        emit Withdrew(msg.sender, amount, balance - amount);
        if (!Push.unlimited(msg.sender, amount)) revert EtherTransferFailed();
    }

    /// @notice Pays the caller's whole worker balance: fee shares, forfeited bonds, release bounties.
    function withdraw() external nonReentrant {
        uint256 amount = _s.workers[msg.sender].balance;
        if (amount == 0) revert NoBalanceToWithdraw(msg.sender);
        _s.workers[msg.sender].balance = 0;
        emit WorkerWithdrawal(msg.sender, amount);
        if (!Push.unlimited(msg.sender, amount)) revert EtherTransferFailed();
    }

    function claimRefund() external {
        claimRefundFor(msg.sender);
    }

    /// @notice Pays an account its pending refund; for accounts, such as a treasury, that cannot call by themselves.
    function claimRefundFor(address account) public nonReentrant {
        uint256 amount = _s.pendingRefunds[account];
        if (amount == 0) revert NoPendingRefund(account);
        _s.pendingRefunds[account] = 0;
        emit RefundClaimed(account, amount);
        if (!Push.unlimited(account, amount)) revert EtherTransferFailed();
    }

    // ------------------------------------------------------------------- owner

    function setReputationRegistry(address registry) external onlyOwner {
        _s.reputationRegistry = IReputationRegistry(registry);
        emit ReputationRegistryUpdated(registry);
    }

    function setPayees(address treasury_, address feePool_) external onlyOwner {
        _setPayees(treasury_, feePool_);
    }

    // ------------------------------------------------------------------- views

    function getJob(uint256 jobId) external view returns (Job memory) {
        Job memory out;
        JobStorage.Job storage j = _s.job(jobId);
        JobStorage.Dispute storage d = _s.disputes[jobId];
        out.sessionId = j.sessionId;
        out.worker = j.worker;
        out.state = j.state;
        out.escrowedFee = j.escrowedFee;
        out.promptBlobHash = j.promptBlobHash;
        out.responseBlobHash = j.responseBlobHash;
        out.submittedAt = j.submittedAt;
        out.ackTimestamp = j.ackTimestamp;
        out.completedAt = j.completedAt;
        out.deadline = j.deadline;
        out.disputeFiler = d.filer;
        out.disputeBond = d.bond;
        out.reExecutionBlobHash = d.reExecutionBlobHash;
        out.similarityScore = d.similarityScore;
        out.disputeCreatedAt = d.createdAt;
        out.responseCiphertextHash = j.responseCiphertextHash;
        out.submitBlockNumber = j.submitBlockNumber;
        out.completionBlockNumber = j.completionBlockNumber;
        return out;
    }

    /// @notice `deposit` is always zero: fees are escrowed per job and a session holds no money.
    function getSession(uint256 sessionId) external view returns (Session memory) {
        Session memory out;
        JobStorage.Session storage x = _s.session(sessionId);
        out.user = x.user;
        out.modelId = x.modelId;
        out.worker = x.worker;
        out.status = x.status;
        out.encWorkerKey = x.encWorkerKey;
        out.encDisputerKey = x.encDisputerKey;
        out.jobCount = x.jobCount;
        out.lastActivityAt = x.lastActivityAt;
        out.reassignCount = x.reassignCount;
        out.excludedWorkers = x.excludedWorkers;
        return out;
    }

    function nonce(address account) external view returns (uint256) {
        return _s.nonces[account];
    }

    function prepaidBalanceOf(address user) external view returns (uint256) {
        return _s.prepaid[user];
    }

    function pendingRefund(address account) external view returns (uint256) {
        return _s.pendingRefunds[account];
    }

    function workerBalance(address worker) external view returns (uint256) {
        return _s.workers[worker].balance;
    }

    /// @notice Jobs of the worker that are submitted or acknowledged.
    function openJobCount(address worker) external view returns (uint256) {
        return _s.workers[worker].openJobs;
    }

    function delegateAllowance(address user, address delegate) external view returns (uint256) {
        return _s.delegates[user][delegate].allowance;
    }

    function isDelegateAuthorized(address user, address delegate) external view returns (bool) {
        return _s.delegates[user][delegate].authorized;
    }

    function reputationRegistry() external view returns (address) {
        return address(_s.reputationRegistry);
    }

    function workerRegistry() external view returns (address) {
        return address(_s.workerRegistry);
    }

    function aiConfig() external view returns (address) {
        return address(_s.aiConfig);
    }

    function treasury() external view returns (address) {
        return _s.treasury;
    }

    function feePool() external view returns (address) {
        return _s.feePool;
    }

    /// @notice Sessions created so far; ids run from 1 to this.
    function sessionCount() external view returns (uint256) {
        return _s.sessionCount;
    }

    /// @notice Jobs submitted so far; ids run from 1 to this.
    function jobCount() external view returns (uint256) {
        return _s.jobCount;
    }

    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return TypedData.domainSeparator();
    }

    // ---------------------------------------------------------------- internal

    function _fee(bytes32 modelId) private view returns (uint256) {
        IAIConfig config = _s.aiConfig;
        if (!config.isModelEnabled(modelId)) revert ModelDisabled(modelId);
        return config.calculateJobFee(modelId);
    }

    /// @dev Effects of a submission; the caller moves the money. The registry refuses a worker that stopped being
    /// eligible, the open-job cap one that is flooded: without it a user could have a worker slashed for free.
    function _submit(uint256 sessionId, JobStorage.Session storage x, bytes32 blobHash, uint256 fee, bool prepaid)
        private
        returns (uint256 jobId)
    {
        IAIConfig config = _s.aiConfig;
        if (
            x.status != SessionStatus.Active
                || block.timestamp > x.lastActivityAt + config.getSessionInactivityTimeout()
        ) revert SessionNotActive(sessionId);
        address worker = x.worker;
        bytes32 modelId = x.modelId;
        if (!_s.workerRegistry.isEligible(worker, modelId)) revert WorkerNotEligible(worker, modelId);
        JobStorage.WorkerAccount storage account = _s.workers[worker];
        if (account.openJobs >= config.getMaxConcurrentJobs()) revert WorkerAtCapacity(worker);
        ++account.openJobs;
        ++x.jobCount;
        x.lastActivityAt = block.timestamp.toUint40();
        uint256 deadline = block.timestamp + config.getAckTimeout();

        jobId = ++_s.jobCount;
        JobStorage.Job storage j = _s.jobs[jobId];
        j.worker = worker;
        j.prepaid = prepaid;
        j.submittedAt = uint40(block.timestamp);
        j.escrowedFee = fee.toUint96();
        j.sessionId = uint64(sessionId);
        j.deadline = deadline.toUint40();
        j.submitBlockNumber = block.number.toUint48();
        j.promptBlobHash = blobHash;
        emit JobSubmitted(jobId, sessionId, worker);
        emit JobFunded(jobId, x.user, fee, prepaid, blobHash, deadline);
        _s.workerRegistry.incrementActiveJobs(worker, modelId);
    }

    /// @dev The caller takes the fee where the transaction carries a value.
    function _submitWithBlob(
        uint256 sessionId,
        uint256 blobIndex,
        uint256 maxFee,
        uint256 expiry,
        bytes calldata userSig
    ) private returns (uint256 jobId, uint256 fee) {
        JobStorage.Session storage x = _s.session(sessionId);
        bytes32 blobHash = _blobHash(blobIndex);
        fee = _fee(x.modelId);
        if (fee > maxFee) revert FeeAboveMaximum(fee, maxFee);
        if (block.timestamp > expiry) revert SignatureExpired(expiry, block.timestamp);
        if (msg.sender != x.user) {
            bytes32 structHash = keccak256(
                abi.encode(TypedData.SUBMIT_JOB_TYPEHASH, sessionId, uint256(x.jobCount), blobHash, maxFee, expiry)
            );
            if (TypedData.signer(structHash, userSig) != x.user) revert InvalidUserSignature();
        }
        bool prepaid = msg.value == 0;
        if (prepaid) _takePrepaid(x.user, fee);
        jobId = _submit(sessionId, x, blobHash, fee, prepaid);
    }

    function _takeValue(uint256 fee) private {
        if (msg.value < fee) revert InsufficientFee(fee, msg.value);
        _s.push(msg.sender, msg.value - fee);
    }

    function _takePrepaid(address user, uint256 fee) private {
        uint256 balance = _s.prepaid[user];
        if (balance < fee) revert InsufficientBalance(user, fee, balance);
        _s.prepaid[user] = balance - fee;
    }

    function _complete(uint256 jobId, JobStorage.Job storage j, bytes32 blobHash, bytes32 ciphertextHash) private {
        JobStorage.expectState(jobId, j, JobState.Acknowledged);
        _checkDeadline(jobId, j);
        if (ciphertextHash == bytes32(0)) revert InvalidResponseCiphertextHash();
        address worker = j.worker;
        j.state = JobState.Completed;
        j.completedAt = block.timestamp.toUint40();
        j.completionBlockNumber = block.number.toUint48();
        j.responseBlobHash = blobHash;
        j.responseCiphertextHash = ciphertextHash;
        --_s.workers[worker].openJobs;
        emit JobCompleted(jobId, worker, blobHash, ciphertextHash);
    }

    function _checkDeadline(uint256 jobId, JobStorage.Job storage j) private view {
        if (block.timestamp > j.deadline) revert DeadlineExceeded(jobId, j.deadline, block.timestamp);
    }

    function _blobHash(uint256 blobIndex) private view returns (bytes32 hash) {
        hash = blobhash(blobIndex);
        if (hash == bytes32(0)) revert BlobNotFound(blobIndex);
    }

    function _deposit() private {
        if (msg.value == 0) revert ZeroDeposit();
        uint256 balance = _s.prepaid[msg.sender] + msg.value;
        _s.prepaid[msg.sender] = balance;
        emit Deposited(msg.sender, msg.value, balance);
    }

    function _authorize(address delegate, bool authorized) private {
        if (delegate == address(0)) revert ZeroAddress();
        _s.delegates[msg.sender][delegate].authorized = authorized;
        emit DelegateAuthorizationSet(msg.sender, delegate, authorized);
    }

    function _setAllowance(address delegate, uint256 allowance) private {
        if (delegate == address(0)) revert ZeroAddress();
        _s.delegates[msg.sender][delegate].allowance = allowance;
        emit DelegateAllowanceSet(msg.sender, delegate, allowance);
    }

    function _setPayees(address treasury_, address feePool_) private {
        if (treasury_ == address(0) || feePool_ == address(0)) revert ZeroAddress();
        _s.treasury = treasury_;
        _s.feePool = feePool_;
        emit PayeesUpdated(treasury_, feePool_);
    }
}
