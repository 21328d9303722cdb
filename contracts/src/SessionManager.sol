// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {Initializable} from "@openzeppelin/contracts-upgradeable/proxy/utils/Initializable.sol";
import {IAIConfig} from "./interfaces/IAIConfig.sol";
import {IJobRegistry} from "./interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "./interfaces/IJobRegistryExtra.sol";
import {IReputationRegistry} from "./interfaces/IReputationRegistry.sol";
import {ISessionManager} from "./interfaces/ISessionManager.sol";
import {ISessionManagerExtra} from "./interfaces/ISessionManagerExtra.sol";
import {IWorkerRegistry} from "./interfaces/IWorkerRegistry.sol";
import {IWorkerRegistryExtra} from "./interfaces/IWorkerRegistryExtra.sol";
import {Draw} from "./lib/Draw.sol";

/// @title SessionManager
/// @notice Sortition: a user asks for a session, chance that nobody could foresee orders the workers by stake and
/// reputation, the first of them to claim serves it.
///
/// The seed is the hash of the block after the request, from the EIP-2935 history: the requester cannot know it, and
/// the proposer of that one block is the only one who could discard it. A worker's ticket is minus log2 of a uniform
/// number, divided by its weight = min(stake, 10 x minimum stake) x score. The request accepts tickets below a
/// threshold that doubles `DOUBLINGS` times over claimWindowBlocks, starting where about one worker of the whole
/// network passes; after the window everyone eligible may claim. A worker that registered, topped up, listed a model or
/// reinstated itself in the request's block or later has no ticket: it could have chosen its address or its weight by the
/// seed.
contract SessionManager is Initializable, OwnableUpgradeable, UUPSUpgradeable, ISessionManager, ISessionManagerExtra {
    /// @dev EIP-2935: hashes of the last 8,191 blocks.
    address private constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    uint256 private constant MAX_LIFETIME = 1 days;
    /// @dev Stake above this many minimum stakes does not add weight.
    uint256 private constant STAKE_CAP_MULTIPLE = 10;
    /// @dev Weight of a score when no ReputationRegistry is set, and of the score a new worker starts with.
    uint64 private constant NEUTRAL_SCORE = 5_000;
    uint256 private constant DOUBLINGS = 8;

    struct RequestData {
        // slot 0
        address user;
        uint64 requestBlock;
        // slot 1
        address worker;
        uint64 expiry;
        ReqStatus status;
        // slot 2
        bytes32 modelId;
        // slot 3
        uint256 requiredCaps;
    }

    /// @dev Append only (see storage-layout/).
    struct State {
        IJobRegistry jobRegistry;
        IWorkerRegistry workerRegistry;
        IAIConfig aiConfig;
        IReputationRegistry reputation;
        uint256 requestCount;
        mapping(uint256 reqId => RequestData) requests;
    }

    State private _s;

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor() {
        _disableInitializers();
    }

    /// @param reputation_ weighs workers by score; zero weighs them by stake alone
    function initialize(
        address initialOwner,
        address jobRegistry_,
        address workerRegistry_,
        address aiConfig_,
        address reputation_
    ) external initializer {
        if (jobRegistry_ == address(0) || workerRegistry_ == address(0) || aiConfig_ == address(0)) {
            revert ZeroAddress();
        }
        __Ownable_init(initialOwner);
        _s.jobRegistry = IJobRegistry(jobRegistry_);
        _s.workerRegistry = IWorkerRegistry(workerRegistry_);
        _s.aiConfig = IAIConfig(aiConfig_);
        _s.reputation = IReputationRegistry(reputation_);
    }

    // ----------------------------------------------------------------- request

    function requestSession(bytes32 modelId, uint256 expiry) external returns (uint256 reqId) {
        return _request(msg.sender, modelId, expiry, 0);
    }

    function requestSessionFor(address user, bytes32 modelId, uint256 expiry) external returns (uint256 reqId) {
        _checkDelegate(user);
        return _request(user, modelId, expiry, 0);
    }

    function requestSessionWithCapabilities(bytes32 modelId, uint256 expiry, uint256 requiredCaps)
        external
        returns (uint256 reqId)
    {
        return _request(msg.sender, modelId, expiry, requiredCaps);
    }

    function requestSessionForWithCapabilities(address user, bytes32 modelId, uint256 expiry, uint256 requiredCaps)
        external
        returns (uint256 reqId)
    {
        _checkDelegate(user);
        return _request(user, modelId, expiry, requiredCaps);
    }

    // ------------------------------------------------------------------- claim

    /// @notice Takes an open request. The first eligible worker gets it.
    function claimSession(uint256 reqId) external {
        if (!_s.aiConfig.getSortitionEnabled()) revert SortitionDisabled();
        RequestData storage r = _s.requests[reqId];
        if (r.user == address(0)) revert RequestNotOpen(reqId);
        if (r.status != ReqStatus.Open) revert AlreadyClaimed(reqId);
        if (block.timestamp > r.expiry) revert RequestExpired(reqId);
        if (!_seedReady(r)) revert SeedNotReady(reqId);
        if (!_s.workerRegistry.isEligible(msg.sender, r.modelId)) revert WorkerNotEligibleForClaim(msg.sender);
        uint256 caps = r.requiredCaps;
        if (_s.workerRegistry.getWorkerCapabilities(msg.sender) & caps != caps) {
            revert MissingCapabilities(msg.sender, caps);
        }
        uint256 open = IJobRegistryExtra(address(_s.jobRegistry)).openJobCount(msg.sender);
        if (open >= _s.aiConfig.getMaxConcurrentJobs()) revert WorkerAtCapacity(msg.sender);
        if (!_passes(reqId, r, msg.sender)) revert NotSortitionEligible(msg.sender);
        r.worker = msg.sender;
        r.status = ReqStatus.Claimed;
        emit SessionClaimed(reqId, msg.sender);
    }

    /// @notice Gives a claimed request its wrapped keys and opens the session.
    function provideSessionKey(uint256 reqId, bytes calldata encWorkerKey, bytes calldata encDisputerKey) external {
        _provide(msg.sender, reqId, encWorkerKey, encDisputerKey);
    }

    function provideSessionKeyFor(
        address user,
        uint256 reqId,
        bytes calldata encWorkerKey,
        bytes calldata encDisputerKey
    ) external {
        _checkDelegate(user);
        _provide(user, reqId, encWorkerKey, encDisputerKey);
    }

    // ------------------------------------------------------------------- views

    /// @notice An open or claimed request past its expiry reads Expired.
    function getRequest(uint256 reqId) external view returns (Request memory) {
        RequestData storage r = _s.requests[reqId];
        bool waiting = r.status == ReqStatus.Open || r.status == ReqStatus.Claimed;
        ReqStatus status = waiting && block.timestamp > r.expiry ? ReqStatus.Expired : r.status;
        return Request(r.user, r.modelId, r.requestBlock, r.expiry, r.worker, status);
    }

    function getRequiredCapabilities(uint256 reqId) external view returns (uint256) {
        return _s.requests[reqId].requiredCaps;
    }

    /// @notice Whether the worker could claim now, but for capabilities and capacity. The threshold loosens with every
    /// block, so ask again.
    function eligibleNow(uint256 reqId, address worker) external view returns (bool) {
        RequestData storage r = _s.requests[reqId];
        return r.user != address(0) && r.status == ReqStatus.Open && block.timestamp <= r.expiry
            && _s.aiConfig.getSortitionEnabled() && _seedReady(r)
            && _s.workerRegistry.isEligible(worker, r.modelId) && _passes(reqId, r, worker);
    }

    /// @notice Requests so far; ids run from 1 to this.
    function requestCount() external view returns (uint256) {
        return _s.requestCount;
    }

    /// @notice The hash a request's tickets are drawn from; zero when it is not there yet or no longer served.
    function seedOf(uint256 reqId) external view returns (bytes32) {
        RequestData storage r = _s.requests[reqId];
        return r.user != address(0) && _seedReady(r) ? _seed(r) : bytes32(0);
    }

    // ---------------------------------------------------------------- internal

    function _checkDelegate(address user) private view {
        if (!_s.jobRegistry.isDelegateAuthorized(user, msg.sender)) revert NotAuthorizedDelegate(user, msg.sender);
    }

    function _request(address user, bytes32 modelId, uint256 expiry, uint256 requiredCaps)
        private
        returns (uint256 reqId)
    {
        if (!_s.aiConfig.getSortitionEnabled()) revert SortitionDisabled();
        if (!_s.aiConfig.isModelEnabled(modelId)) revert ModelDisabled(modelId);
        uint256 latest = block.timestamp + MAX_LIFETIME;
        if (expiry <= block.timestamp || expiry > latest) {
            revert ExpiryOutOfBounds(expiry, block.timestamp + 1, latest);
        }
        uint256 known = _s.workerRegistry.getCapabilityCount();
        if (known < 256 && requiredCaps >> known != 0) revert UnknownCapabilityBits(requiredCaps);
        reqId = ++_s.requestCount;
        RequestData storage r = _s.requests[reqId];
        r.user = user;
        r.requestBlock = uint64(block.number);
        r.expiry = uint64(expiry);
        r.modelId = modelId;
        emit SessionRequested(reqId, user, modelId, block.number);
        if (requiredCaps != 0) {
            r.requiredCaps = requiredCaps;
            emit CapabilitiesRequired(reqId, requiredCaps);
        }
    }

    function _provide(address user, uint256 reqId, bytes calldata encWorkerKey, bytes calldata encDisputerKey)
        private
    {
        RequestData storage r = _s.requests[reqId];
        if (r.user != user || user == address(0)) revert NotRequestOwner(reqId);
        if (r.status != ReqStatus.Claimed) revert RequestNotClaimed(reqId);
        if (block.timestamp > r.expiry) revert RequestExpired(reqId);
        r.status = ReqStatus.Ready;
        uint256 sessionId = _s.jobRegistry.adoptSession(user, r.modelId, r.worker, encWorkerKey, encDisputerKey);
        emit SessionReady(reqId, sessionId);
    }

    function _seedReady(RequestData storage r) private view returns (bool) {
        return block.number > uint256(r.requestBlock) + 1;
    }

    /// @dev Block hash of requestBlock + 1. The opcode serves 256 blocks, EIP-2935 the rest.
    function _seed(RequestData storage r) private view returns (bytes32 hash) {
        uint256 number = uint256(r.requestBlock) + 1;
        hash = blockhash(number);
        if (hash != bytes32(0)) return hash;
        (bool ok, bytes memory out) = HISTORY.staticcall(abi.encode(number));
        if (ok && out.length == 32) hash = bytes32(out);
    }

    /// @dev ticket / weight <= 2^(DOUBLINGS * elapsed / window) / (total stake * neutral score), without division.
    function _passes(uint256 reqId, RequestData storage r, address worker) private view returns (bool) {
        uint256 window = _s.aiConfig.getClaimWindowBlocks();
        uint256 elapsed = block.number - r.requestBlock - 2;
        if (elapsed >= window) return true;
        IWorkerRegistryExtra registry = IWorkerRegistryExtra(address(_s.workerRegistry));
        if (registry.getWeightSince(worker) >= r.requestBlock) return false;
        bytes32 seed = _seed(r);
        // Fails closed: without a seed there is no fair order, and the window opens to all soon enough.
        if (seed == bytes32(0)) return false;
        uint64 score = address(_s.reputation) == address(0) ? NEUTRAL_SCORE : uint64(_s.reputation.getScore(worker));
        uint256 cap = _s.aiConfig.getMinWorkerStake() * STAKE_CAP_MULTIPLE;
        uint256 weight = Draw.weight(_s.workerRegistry.getWorkerStake(worker), cap, score);
        uint256 total = _s.workerRegistry.getTotalStaked(r.requestBlock) * NEUTRAL_SCORE;
        return Draw.ticket(seed, reqId, worker) * total <= weight << (Draw.FRACTION + DOUBLINGS * elapsed / window);
    }

    function _authorizeUpgrade(address) internal override onlyOwner {}
}
