// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {Initializable} from "@openzeppelin/contracts-upgradeable/proxy/utils/Initializable.sol";
import {IAIConfig} from "./interfaces/IAIConfig.sol";

/// @title AIConfig
/// @notice Protocol parameters and the model catalogue. The owner (a timelock) sets them; everybody else reads them
/// live, so a change applies at once to open jobs. Times are seconds, rates are basis points (10,000 = 100 %), money
/// is wei. The bounds are wide enough for a devnet whose windows are seconds; the `min*` parameters are the guard a
/// live network raises.
contract AIConfig is Initializable, OwnableUpgradeable, UUPSUpgradeable, IAIConfig {
    uint256 private constant BPS = 10_000;
    /// @dev Upper bound of every time parameter that gates money.
    uint256 private constant MAX_TIME = 30 days;
    /// @dev Fees fit the 96 bits JobRegistry keeps per job, with room to spare: 10^9 LCAI.
    uint256 private constant MAX_FEE = 1e27;
    /// @dev A session remembers every worker it excluded and a draw walks that list.
    uint256 private constant MAX_REASSIGNMENTS = 16;

    /// @dev Packed: a job's life reads three of these slots.
    struct Params {
        // slot 0: times
        uint32 ackTimeout;
        uint32 completionTimeout;
        uint32 disputeWindow;
        uint32 resolutionTimeout;
        uint32 sessionInactivityTimeout;
        uint32 blobRetentionPeriod;
        uint32 minAckTimeout;
        uint32 minDisputeWindow;
        // slot 1: rates
        uint16 workerFeeBps;
        uint16 protocolFeeBps;
        uint16 feePoolBps;
        uint16 timeoutSlashBps;
        uint16 completionTimeoutSlashBps;
        uint16 disputeSlashBps;
        uint16 maxSlashBps;
        uint16 timeoutBountyBps;
        uint16 releaseBountyBps;
        uint16 samplingRateBps;
        uint16 similarityThreshold;
        uint16 canarySimilarityThreshold;
        uint32 disputeBondMultiplier;
        uint32 minResolutionTimeout;
        // slot 2
        uint96 minWorkerStake;
        address dispatcher;
        // slot 3
        address disputer;
        uint32 suspensionThreshold;
        uint32 suspensionCooldown;
        uint16 maxReassignments;
        uint16 maxConcurrentJobs;
        // slot 4
        address sessionManager;
        uint32 claimWindowBlocks;
        bool sortitionEnabled;
    }

    struct Model {
        uint96 fee;
        uint64 maxOutputTokens;
        bool registered;
        bool enabled;
    }

    /// @dev Append only: members after `models` may be added, none may move (see storage-layout/).
    struct State {
        Params params;
        mapping(bytes32 modelId => Model) models;
    }

    State private _s;

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor() {
        _disableInitializers();
    }

    /// @notice Sets the owner, both off-chain roles and the default parameters.
    /// @param _dispatcher signs session authorisations; zero on a network that only uses sortition
    /// @param _disputer resolves disputes; must not be zero
    function initialize(address _initialOwner, address _dispatcher, address _disputer) external initializer {
        if (_disputer == address(0)) revert ZeroAddress();
        __Ownable_init(_initialOwner);
        Params storage p = _s.params;
        p.ackTimeout = 90;
        p.completionTimeout = 120;
        p.disputeWindow = 1 hours;
        p.resolutionTimeout = 2 hours;
        p.sessionInactivityTimeout = 30 minutes;
        p.blobRetentionPeriod = 18 days;
        p.minAckTimeout = 10;
        p.minDisputeWindow = 10 minutes;
        p.minResolutionTimeout = 10 minutes;
        p.workerFeeBps = 8000;
        p.protocolFeeBps = 1500;
        p.feePoolBps = 500;
        p.timeoutSlashBps = 200;
        p.completionTimeoutSlashBps = 500;
        p.disputeSlashBps = 1500;
        p.maxSlashBps = 5000;
        p.timeoutBountyBps = 1000;
        p.releaseBountyBps = 100;
        p.samplingRateBps = 100;
        p.similarityThreshold = 8500;
        p.canarySimilarityThreshold = 9000;
        p.disputeBondMultiplier = 10_000;
        p.minWorkerStake = 5000 ether;
        p.suspensionThreshold = 3;
        p.suspensionCooldown = 7 days;
        p.maxReassignments = 3;
        p.maxConcurrentJobs = 16;
        p.claimWindowBlocks = 10;
        p.dispatcher = _dispatcher;
        p.disputer = _disputer;
        emit DispatcherAddressUpdated(_dispatcher);
        emit DisputerAddressUpdated(_disputer);
    }

    // ------------------------------------------------------------------ models

    function registerModel(bytes32 modelId, uint256 fee, uint256 maxOutputTokens) external onlyOwner {
        Model storage m = _s.models[modelId];
        if (m.registered) revert ModelAlreadyRegistered(modelId);
        m.fee = uint96(_bounded("modelFee", fee, 0, MAX_FEE));
        m.maxOutputTokens = uint64(_bounded("maxOutputTokens", maxOutputTokens, 1, type(uint64).max));
        m.registered = true;
        m.enabled = true;
        emit ModelRegistered(modelId, fee, maxOutputTokens);
    }

    function enableModel(bytes32 modelId) external onlyOwner {
        Model storage m = _model(modelId);
        if (m.enabled) revert ModelAlreadyEnabled(modelId);
        m.enabled = true;
        emit ModelEnabled(modelId);
    }

    /// @notice Stops new sessions and jobs of the model; running jobs settle. Disabling twice changes nothing.
    function disableModel(bytes32 modelId) external onlyOwner {
        _model(modelId).enabled = false;
        emit ModelDisabled(modelId);
    }

    function setModelFee(bytes32 modelId, uint256 fee) external onlyOwner {
        Model storage m = _model(modelId);
        m.fee = uint96(_bounded("modelFee", fee, 0, MAX_FEE));
        emit ModelConfigUpdated(modelId, fee, m.maxOutputTokens);
    }

    function setModelMaxOutputTokens(bytes32 modelId, uint256 tokens) external onlyOwner {
        Model storage m = _model(modelId);
        m.maxOutputTokens = uint64(_bounded("maxOutputTokens", tokens, 1, type(uint64).max));
        emit ModelConfigUpdated(modelId, m.fee, tokens);
    }

    /// @notice Flat fee of one job in wei.
    function calculateJobFee(bytes32 modelId) external view returns (uint256) {
        return _model(modelId).fee;
    }

    /// @notice Fee as configured; zero for an unknown model.
    function getModelFee(bytes32 modelId) external view returns (uint256) {
        return _s.models[modelId].fee;
    }

    function getModelMaxOutputTokens(bytes32 modelId) external view returns (uint256) {
        return _s.models[modelId].maxOutputTokens;
    }

    function isModelEnabled(bytes32 modelId) external view returns (bool) {
        return _s.models[modelId].enabled;
    }

    // ------------------------------------------------------------------- times

    function setAckTimeout(uint256 timeout) external onlyOwner {
        Params storage p = _s.params;
        p.ackTimeout = uint32(_bounded("ackTimeout", timeout, p.minAckTimeout, 1 days));
        emit InfraParamsUpdated("ackTimeout", timeout);
    }

    function setCompletionTimeout(uint256 timeout) external onlyOwner {
        _s.params.completionTimeout = uint32(_bounded("completionTimeout", timeout, 1, 1 days));
        emit InfraParamsUpdated("completionTimeout", timeout);
    }

    function setSessionInactivityTimeout(uint256 timeout) external onlyOwner {
        _s.params.sessionInactivityTimeout = uint32(_bounded("sessionInactivityTimeout", timeout, 1, 365 days));
        emit InfraParamsUpdated("sessionInactivityTimeout", timeout);
    }

    function setDisputeWindow(uint256 window) external onlyOwner {
        Params storage p = _s.params;
        p.disputeWindow = uint32(_bounded("disputeWindow", window, p.minDisputeWindow, MAX_TIME));
        _checkRetention(p);
        _emitDisputeParams(p);
    }

    function setResolutionTimeout(uint256 timeout) external onlyOwner {
        Params storage p = _s.params;
        p.resolutionTimeout = uint32(_bounded("resolutionTimeout", timeout, p.minResolutionTimeout, MAX_TIME));
        _checkRetention(p);
        _emitDisputeParams(p);
    }

    /// @notice A blob must outlive the last moment a dispute over it can be decided.
    function setBlobRetentionPeriod(uint256 period) external onlyOwner {
        Params storage p = _s.params;
        p.blobRetentionPeriod = uint32(_bounded("blobRetentionPeriod", period, 1, 3650 days));
        _checkRetention(p);
        emit InfraParamsUpdated("blobRetentionPeriod", period);
    }

    function setMinAckTimeout(uint256 timeout) external onlyOwner {
        Params storage p = _s.params;
        p.minAckTimeout = uint32(_bounded("minAckTimeout", timeout, 1, p.ackTimeout));
        emit InfraParamsUpdated("minAckTimeout", timeout);
    }

    function setMinDisputeWindow(uint256 window) external onlyOwner {
        Params storage p = _s.params;
        p.minDisputeWindow = uint32(_bounded("minDisputeWindow", window, 1, p.disputeWindow));
        emit InfraParamsUpdated("minDisputeWindow", window);
    }

    function setMinResolutionTimeout(uint256 timeout) external onlyOwner {
        Params storage p = _s.params;
        p.minResolutionTimeout = uint32(_bounded("minResolutionTimeout", timeout, 1, p.resolutionTimeout));
        emit InfraParamsUpdated("minResolutionTimeout", timeout);
    }

    // ------------------------------------------------------------------- rates

    function setFeeDistribution(uint256 workerBps, uint256 protocolBps, uint256 feePoolBps) external onlyOwner {
        // Each one is bounded first so that the sum cannot wrap.
        _bounded("workerFeeBps", workerBps, 0, BPS);
        _bounded("protocolFeeBps", protocolBps, 0, BPS);
        _bounded("feePoolBps", feePoolBps, 0, BPS);
        uint256 sum = workerBps + protocolBps + feePoolBps;
        if (sum != BPS) revert FeeInvariantViolation(sum, BPS);
        Params storage p = _s.params;
        p.workerFeeBps = uint16(workerBps);
        p.protocolFeeBps = uint16(protocolBps);
        p.feePoolBps = uint16(feePoolBps);
        emit FeeDistributionUpdated(workerBps, protocolBps, feePoolBps);
    }

    function setTimeoutSlashBps(uint256 bps) external onlyOwner {
        _s.params.timeoutSlashBps = uint16(_bounded("timeoutSlashBps", bps, 0, BPS));
        _emitSlashing();
    }

    function setCompletionTimeoutSlashBps(uint256 bps) external onlyOwner {
        _s.params.completionTimeoutSlashBps = uint16(_bounded("completionTimeoutSlashBps", bps, 0, BPS));
        _emitSlashing();
    }

    function setDisputeSlashBps(uint256 bps) external onlyOwner {
        _s.params.disputeSlashBps = uint16(_bounded("disputeSlashBps", bps, 0, BPS));
        _emitSlashing();
    }

    function setMaxSlashBps(uint256 bps) external onlyOwner {
        _s.params.maxSlashBps = uint16(_bounded("maxSlashBps", bps, 0, BPS));
        emit InfraParamsUpdated("maxSlashBps", bps);
    }

    function setTimeoutBountyBps(uint256 bps) external onlyOwner {
        Params storage p = _s.params;
        p.timeoutBountyBps = uint16(_bounded("timeoutBountyBps", bps, 0, BPS));
        emit KeeperParamsUpdated(bps, p.releaseBountyBps);
    }

    function setReleaseBountyBps(uint256 bps) external onlyOwner {
        Params storage p = _s.params;
        p.releaseBountyBps = uint16(_bounded("releaseBountyBps", bps, 0, BPS));
        emit KeeperParamsUpdated(p.timeoutBountyBps, bps);
    }

    function setSamplingRateBps(uint256 bps) external onlyOwner {
        _s.params.samplingRateBps = uint16(_bounded("samplingRateBps", bps, 0, BPS));
        emit InfraParamsUpdated("samplingRateBps", bps);
    }

    function setSimilarityThreshold(uint256 bps) external onlyOwner {
        _s.params.similarityThreshold = uint16(_bounded("similarityThreshold", bps, 0, BPS));
        emit InfraParamsUpdated("similarityThreshold", bps);
    }

    function setCanarySimilarityThreshold(uint256 bps) external onlyOwner {
        _s.params.canarySimilarityThreshold = uint16(_bounded("canarySimilarityThreshold", bps, 0, BPS));
        emit InfraParamsUpdated("canarySimilarityThreshold", bps);
    }

    /// @notice Bond of a dispute in basis points of the escrowed fee; up to a hundred times the fee.
    function setDisputeBondMultiplier(uint256 multiplier) external onlyOwner {
        Params storage p = _s.params;
        p.disputeBondMultiplier = uint32(_bounded("disputeBondMultiplier", multiplier, 0, 100 * BPS));
        _emitDisputeParams(p);
    }

    // ------------------------------------------------------- stakes and limits

    function setMinWorkerStake(uint256 stake) external onlyOwner {
        _s.params.minWorkerStake = uint96(_bounded("minWorkerStake", stake, 1, MAX_FEE));
        emit MinWorkerStakeUpdated(stake);
    }

    function setSuspensionThreshold(uint256 count) external onlyOwner {
        Params storage p = _s.params;
        p.suspensionThreshold = uint32(_bounded("suspensionThreshold", count, 1, 1000));
        emit SuspensionParamsUpdated(count, p.suspensionCooldown);
    }

    function setSuspensionCooldown(uint256 duration) external onlyOwner {
        Params storage p = _s.params;
        p.suspensionCooldown = uint32(_bounded("suspensionCooldown", duration, 1, 365 days));
        emit SuspensionParamsUpdated(p.suspensionThreshold, duration);
    }

    function setMaxReassignments(uint256 max) external onlyOwner {
        _s.params.maxReassignments = uint16(_bounded("maxReassignments", max, 0, MAX_REASSIGNMENTS));
        emit InfraParamsUpdated("maxReassignments", max);
    }

    /// @notice Jobs a worker may have submitted or acknowledged at one time.
    function setMaxConcurrentJobs(uint256 value) external onlyOwner {
        _s.params.maxConcurrentJobs = uint16(_bounded("maxConcurrentJobs", value, 1, type(uint16).max));
        emit MaxConcurrentJobsUpdated(value);
    }

    /// @notice Blocks over which a sortition request opens from its best-drawn workers to all of them. The EIP-2935
    /// history serves the seed for 8,191 blocks, which bounds the window.
    function setClaimWindowBlocks(uint256 value) external onlyOwner {
        _s.params.claimWindowBlocks = uint32(_bounded("claimWindowBlocks", value, 1, 4096));
        emit ClaimWindowBlocksUpdated(value);
    }

    function setSortitionEnabled(bool enabled) external onlyOwner {
        _s.params.sortitionEnabled = enabled;
        emit SortitionEnabledUpdated(enabled);
    }

    // ------------------------------------------------------------------- roles

    /// @notice Zero removes the dispatcher: createSession is then closed and sessions come from sortition.
    function setDispatcherAddress(address dispatcher) external onlyOwner {
        _s.params.dispatcher = dispatcher;
        emit DispatcherAddressUpdated(dispatcher);
    }

    function setDisputerAddress(address disputer) external onlyOwner {
        if (disputer == address(0)) revert ZeroAddress();
        _s.params.disputer = disputer;
        emit DisputerAddressUpdated(disputer);
    }

    function setSessionManagerAddress(address value) external onlyOwner {
        if (value == address(0)) revert ZeroAddress();
        _s.params.sessionManager = value;
        emit SessionManagerAddressUpdated(value);
    }

    // ----------------------------------------------------------------- getters

    function getAckTimeout() external view returns (uint256) {
        return _s.params.ackTimeout;
    }

    function getBlobRetentionPeriod() external view returns (uint256) {
        return _s.params.blobRetentionPeriod;
    }

    function getCanarySimilarityThreshold() external view returns (uint256) {
        return _s.params.canarySimilarityThreshold;
    }

    function getClaimWindowBlocks() external view returns (uint256) {
        return _s.params.claimWindowBlocks;
    }

    function getCompletionTimeout() external view returns (uint256) {
        return _s.params.completionTimeout;
    }

    function getCompletionTimeoutSlashBps() external view returns (uint256) {
        return _s.params.completionTimeoutSlashBps;
    }

    function getDispatcherAddress() external view returns (address) {
        return _s.params.dispatcher;
    }

    function getDisputeBondMultiplier() external view returns (uint256) {
        return _s.params.disputeBondMultiplier;
    }

    function getDisputeSlashBps() external view returns (uint256) {
        return _s.params.disputeSlashBps;
    }

    function getDisputeWindow() external view returns (uint256) {
        return _s.params.disputeWindow;
    }

    function getDisputerAddress() external view returns (address) {
        return _s.params.disputer;
    }

    function getFeePoolBps() external view returns (uint256) {
        return _s.params.feePoolBps;
    }

    function getMaxConcurrentJobs() external view returns (uint256) {
        return _s.params.maxConcurrentJobs;
    }

    function getMaxReassignments() external view returns (uint256) {
        return _s.params.maxReassignments;
    }

    function getMaxSlashBps() external view returns (uint256) {
        return _s.params.maxSlashBps;
    }

    function getMinAckTimeout() external view returns (uint256) {
        return _s.params.minAckTimeout;
    }

    function getMinDisputeWindow() external view returns (uint256) {
        return _s.params.minDisputeWindow;
    }

    function getMinResolutionTimeout() external view returns (uint256) {
        return _s.params.minResolutionTimeout;
    }

    function getMinWorkerStake() external view returns (uint256) {
        return _s.params.minWorkerStake;
    }

    function getProtocolFeeBps() external view returns (uint256) {
        return _s.params.protocolFeeBps;
    }

    function getReleaseBountyBps() external view returns (uint256) {
        return _s.params.releaseBountyBps;
    }

    function getResolutionTimeout() external view returns (uint256) {
        return _s.params.resolutionTimeout;
    }

    function getSamplingRateBps() external view returns (uint256) {
        return _s.params.samplingRateBps;
    }

    function getSessionInactivityTimeout() external view returns (uint256) {
        return _s.params.sessionInactivityTimeout;
    }

    function getSessionManagerAddress() external view returns (address) {
        return _s.params.sessionManager;
    }

    function getSimilarityThreshold() external view returns (uint256) {
        return _s.params.similarityThreshold;
    }

    function getSortitionEnabled() external view returns (bool) {
        return _s.params.sortitionEnabled;
    }

    function getSuspensionCooldown() external view returns (uint256) {
        return _s.params.suspensionCooldown;
    }

    function getSuspensionThreshold() external view returns (uint256) {
        return _s.params.suspensionThreshold;
    }

    function getTimeoutBountyBps() external view returns (uint256) {
        return _s.params.timeoutBountyBps;
    }

    function getTimeoutSlashBps() external view returns (uint256) {
        return _s.params.timeoutSlashBps;
    }

    function getWorkerFeeBps() external view returns (uint256) {
        return _s.params.workerFeeBps;
    }

    // ---------------------------------------------------------------- internal

    function _model(bytes32 modelId) private view returns (Model storage m) {
        m = _s.models[modelId];
        if (!m.registered) revert ModelNotConfigured(modelId);
    }

    function _bounded(string memory param, uint256 value, uint256 min, uint256 max) private pure returns (uint256) {
        if (value < min || value > max) revert ParameterOutOfBounds(param, value, min, max);
        return value;
    }

    function _checkRetention(Params storage p) private view {
        uint256 required = uint256(p.disputeWindow) + p.resolutionTimeout;
        if (p.blobRetentionPeriod < required) revert RetentionInvariantViolation(p.blobRetentionPeriod, required);
    }

    function _emitDisputeParams(Params storage p) private {
        emit DisputeParamsUpdated(p.disputeBondMultiplier, p.disputeWindow, p.resolutionTimeout);
    }

    function _emitSlashing() private {
        Params storage p = _s.params;
        emit SlashingParamsUpdated(p.timeoutSlashBps, p.completionTimeoutSlashBps, p.disputeSlashBps);
    }

    function _authorizeUpgrade(address) internal override onlyOwner {}
}
