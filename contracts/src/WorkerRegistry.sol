// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {P256} from "@openzeppelin/contracts/utils/cryptography/P256.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IWorkerRegistry} from "./interfaces/IWorkerRegistry.sol";
import {IWorkerRegistryExtra} from "./interfaces/IWorkerRegistryExtra.sol";
import {IAIConfig} from "./interfaces/IAIConfig.sol";
import {Guarded} from "./lib/Guarded.sol";
import {Push} from "./lib/Push.sol";

/// @title WorkerRegistry
/// @notice Stakes, encryption keys, models and eligibility of workers. Money held: the sum of all stakes plus the
/// slashed funds, to the wei.
///
/// Eligible sets: per model an array of the workers that were eligible when last touched, joined and left in constant
/// time by swap-and-pop. A worker lists at most `MAX_MODELS` models, so leaving all its sets is bounded. What the
/// owner changes (minimum stake, whitelist) can leave stale members behind; every read checks eligibility afresh, and
/// `syncEligibility` drops them.
contract WorkerRegistry is ReentrancyGuardTransient, Guarded, IWorkerRegistry, IWorkerRegistryExtra {
    using Checkpoints for Checkpoints.Trace208;
    using SafeCast for uint256;

    /// @notice Models one worker may list.
    uint256 public constant MAX_MODELS = 16;
    /// @dev Tries of `selectEligibleWorker`; a set no larger than this is walked whole where they find nobody.
    uint256 private constant MAX_DRAWS = 16;
    /// @dev Stake above this many minimum stakes does not raise the chance to be selected.
    uint256 private constant STAKE_CAP_MULTIPLE = 10;
    uint256 private constant BPS = 10_000;

    struct Worker {
        // slot 0
        uint96 stake;
        uint40 suspendedUntil;
        uint32 offenses;
        uint32 activeJobs;
        bool registered;
        bool suspended;
        // slot 1
        uint256 capabilities;
        // slot 2: uncompressed P-256 point, 65 bytes
        bytes encryptionKey;
        // slot 3
        bytes32[] models;
    }

    /// @dev Positions are one-based; zero means absent.
    struct Listing {
        uint32 activeJobs;
        uint32 modelPos;
        uint32 eligiblePos;
    }

    /// @dev Append only: members may be added at the end, none may move (see storage-layout/).
    struct State {
        IAIConfig aiConfig;
        address jobRegistry;
        address treasury;
        uint256 slashedFunds;
        mapping(address worker => Worker) workers;
        mapping(address worker => mapping(bytes32 modelId => Listing)) listings;
        mapping(bytes32 modelId => address[]) eligible;
        mapping(bytes32 modelId => bool) whitelisted;
        string[] capabilityNames;
        mapping(bytes32 nameHash => uint256) capabilityMasks;
        Checkpoints.Trace208 totalStaked;
        mapping(address worker => uint48) weightSince;
    }

    State private _s;

    modifier onlyJobRegistry() {
        if (msg.sender != _s.jobRegistry) revert NotAuthorized(msg.sender);
        _;
    }

    /// @param _guardian may pause until it is sunset; zero for none
    function initialize(
        address _initialOwner,
        address _aiConfig,
        address _jobRegistry,
        address _treasury,
        address _guardian
    ) external initializer {
        if (_aiConfig == address(0) || _jobRegistry == address(0) || _treasury == address(0)) revert ZeroAddress();
        __Guarded_init(_initialOwner, _guardian);
        _s.aiConfig = IAIConfig(_aiConfig);
        _s.jobRegistry = _jobRegistry;
        _s.treasury = _treasury;
    }

    // ------------------------------------------------------ stake of a worker

    /// @notice The whole value becomes stake. A worker that left while suspended cannot come back before its cooldown.
    function registerWorker(bytes calldata encryptionPubKey) external payable whenNotPaused {
        Worker storage w = _s.workers[msg.sender];
        if (w.registered) revert WorkerAlreadyRegistered(msg.sender);
        if (w.suspended) {
            if (block.timestamp < w.suspendedUntil) revert WorkerIsSuspended(msg.sender, w.suspendedUntil);
            _liftSuspension(w, msg.sender);
        }
        uint256 minStake = _s.aiConfig.getMinWorkerStake();
        if (msg.value < minStake) revert InsufficientStake(minStake, msg.value);
        _checkKey(encryptionPubKey);
        w.registered = true;
        w.stake = msg.value.toUint96();
        w.encryptionKey = encryptionPubKey;
        _addTotal(msg.value);
        _touchWeight(msg.sender);
        emit WorkerRegistered(msg.sender, encryptionPubKey);
    }

    function topUpStake() external payable whenNotPaused {
        Worker storage w = _registered(msg.sender);
        uint256 newStake = w.stake + msg.value;
        w.stake = newStake.toUint96();
        _addTotal(msg.value);
        _touchWeight(msg.sender);
        emit StakeTopUp(msg.sender, msg.value, newStake);
        _sync(msg.sender, w);
    }

    /// @notice Any time; while a model is listed the minimum must stay.
    function withdrawStake(uint256 amount) external nonReentrant {
        Worker storage w = _registered(msg.sender);
        uint256 stake = w.stake;
        uint256 keep = w.models.length == 0 ? 0 : _s.aiConfig.getMinWorkerStake();
        if (amount > stake || stake - amount < keep) revert InsufficientStake(keep + amount, stake);
        uint256 newStake = stake - amount;
        w.stake = uint96(newStake);
        _subTotal(amount);
        emit StakeWithdrawn(msg.sender, amount, newStake);
        if (!Push.unlimited(msg.sender, amount)) revert TransferFailed();
    }

    /// @notice Returns the whole stake at once. Offences and a running suspension stay with the address.
    function deregisterWorker() external nonReentrant {
        Worker storage w = _registered(msg.sender);
        if (w.activeJobs != 0) revert ActiveJobsExist(msg.sender, w.activeJobs);
        uint256 stake = w.stake;
        while (w.models.length != 0) {
            _unlist(msg.sender, w, w.models[w.models.length - 1]);
        }
        w.registered = false;
        w.stake = 0;
        w.capabilities = 0;
        delete w.encryptionKey;
        _subTotal(stake);
        emit WorkerDeregistered(msg.sender);
        if (!Push.unlimited(msg.sender, stake)) revert TransferFailed();
    }

    /// @notice Replaces the encryption key. Keys wrapped for the old one stay readable to whoever keeps it.
    function rotateEncryptionKey(bytes calldata encryptionPubKey) external whenNotPaused {
        Worker storage w = _registered(msg.sender);
        _checkKey(encryptionPubKey);
        w.encryptionKey = encryptionPubKey;
        emit EncryptionKeyRotated(msg.sender, encryptionPubKey);
    }

    /// @notice Ends a suspension after its cooldown with a clean offence count.
    function reinstate() external whenNotPaused {
        Worker storage w = _registered(msg.sender);
        if (!w.suspended) revert WorkerNotSuspended(msg.sender);
        if (block.timestamp < w.suspendedUntil) revert StillSuspended(msg.sender, w.suspendedUntil);
        _liftSuspension(w, msg.sender);
        _touchWeight(msg.sender);
        _sync(msg.sender, w);
    }

    // ------------------------------------------------------------------ models

    function addSupportedModel(bytes32 modelId) external whenNotPaused {
        Worker storage w = _registered(msg.sender);
        if (!_s.whitelisted[modelId]) revert ModelNotWhitelisted(modelId);
        if (w.suspended) revert WorkerIsSuspended(msg.sender, w.suspendedUntil);
        uint256 minStake = _s.aiConfig.getMinWorkerStake();
        if (w.stake < minStake) revert InsufficientStake(minStake, w.stake);
        Listing storage l = _s.listings[msg.sender][modelId];
        if (l.modelPos != 0) revert ModelAlreadySupported(modelId);
        if (w.models.length >= MAX_MODELS) revert TooManyModels(msg.sender, MAX_MODELS);
        w.models.push(modelId);
        l.modelPos = uint32(w.models.length);
        _touchWeight(msg.sender);
        emit ModelAdded(msg.sender, modelId);
        _join(msg.sender, modelId, l);
    }

    function removeSupportedModel(bytes32 modelId) external {
        Worker storage w = _registered(msg.sender);
        Listing storage l = _s.listings[msg.sender][modelId];
        if (l.modelPos == 0) revert ModelNotSupported(modelId);
        if (l.activeJobs != 0) revert ActiveJobsExistForModel(msg.sender, modelId, l.activeJobs);
        _unlist(msg.sender, w, modelId);
    }

    /// @notice Opens a model that AIConfig knows. Repeating it changes nothing.
    function addWhitelistedModel(bytes32 modelId) external onlyOwner {
        try _s.aiConfig.calculateJobFee(modelId) returns (uint256) {}
        catch {
            revert ModelNotRegistered(modelId);
        }
        _s.whitelisted[modelId] = true;
        emit ModelWhitelisted(modelId);
    }

    /// @notice Closes a model: nobody is eligible for it from now on; running jobs settle.
    function removeWhitelistedModel(bytes32 modelId) external onlyOwner {
        if (!_s.whitelisted[modelId]) revert ModelNotWhitelisted(modelId);
        _s.whitelisted[modelId] = false;
        emit ModelDelisted(modelId);
    }

    /// @notice Brings a worker's membership of the eligible sets in line with its state; anyone may call it.
    function syncEligibility(address worker) external {
        _sync(worker, _registered(worker));
    }

    // ------------------------------------------------------------ capabilities

    function registerCapability(string calldata name) external onlyOwner returns (uint8 bit) {
        bytes32 nameHash = keccak256(bytes(name));
        if (_s.capabilityMasks[nameHash] != 0) revert CapabilityExists(name);
        uint256 count = _s.capabilityNames.length;
        if (count == 256) revert CapabilityLimitReached();
        bit = uint8(count);
        _s.capabilityNames.push(name);
        _s.capabilityMasks[nameHash] = 1 << count;
        emit CapabilityRegistered(bit, name);
    }

    /// @notice Overwrites the caller's whole mask.
    function setCapabilities(uint256 mask) external whenNotPaused {
        Worker storage w = _registered(msg.sender);
        uint256 count = _s.capabilityNames.length;
        if (count < 256 && mask >> count != 0) revert UnknownCapabilityBits(mask);
        w.capabilities = mask;
        emit WorkerCapabilitiesSet(msg.sender, mask);
    }

    // ------------------------------------------------------------- JobRegistry

    /// @notice Counts a new job. Refused for a worker that is not eligible, so that none is ever drawn under-staked.
    function incrementActiveJobs(address worker, bytes32 modelId) external onlyJobRegistry {
        if (!isEligible(worker, modelId)) revert WorkerNotInEligibleSet(worker, modelId);
        ++_s.workers[worker].activeJobs;
        ++_s.listings[worker][modelId].activeJobs;
    }

    function decrementActiveJobs(address worker, bytes32 modelId) external onlyJobRegistry {
        --_s.workers[worker].activeJobs;
        --_s.listings[worker][modelId].activeJobs;
    }

    /// @notice One offence: `bps` of the minimum stake, doubled for every earlier offence and capped by maxSlashBps
    /// and by what the worker has.
    function slash(address worker, uint256 bps) external nonReentrant onlyJobRegistry {
        uint256 amount = _slash(worker, bps);
        _s.slashedFunds += amount;
    }

    /// @notice As `slash`, with timeoutBountyBps of the amount sent to whoever reported it. A recipient that refuses
    /// the transfer gets nothing; the money stays with the slashed funds.
    function slashWithBounty(address worker, uint256 bps, address bountyRecipient)
        external
        nonReentrant
        onlyJobRegistry
        returns (uint256 slashAmount, uint256 bountyPaid)
    {
        slashAmount = _slash(worker, bps);
        uint256 bounty = slashAmount * _s.aiConfig.getTimeoutBountyBps() / BPS;
        _s.slashedFunds += slashAmount - bounty;
        if (bounty == 0) return (slashAmount, 0);
        if (Push.limited(bountyRecipient, bounty)) bountyPaid = bounty;
        else _s.slashedFunds += bounty;
    }

    // ------------------------------------------------------------------- owner

    function resetOffenses(address worker) external onlyOwner {
        Worker storage w = _s.workers[worker];
        uint32 previous = w.offenses;
        w.offenses = 0;
        emit OffensesReset(worker, previous);
    }

    /// @notice Sends the slashed funds to the treasury; anyone may call it.
    function withdrawSlashedFunds() external nonReentrant {
        uint256 amount = _s.slashedFunds;
        if (amount == 0) revert NoSlashedFunds();
        _s.slashedFunds = 0;
        address to = _s.treasury;
        emit SlashedFundsWithdrawn(to, amount);
        if (!Push.unlimited(to, amount)) revert TransferFailed();
    }

    // ------------------------------------------------------------------- views

    function aiConfig() external view returns (address) {
        return address(_s.aiConfig);
    }

    function jobRegistry() external view returns (address) {
        return _s.jobRegistry;
    }

    function getTreasury() external view returns (address) {
        return _s.treasury;
    }

    function getSlashedFunds() external view returns (uint256) {
        return _s.slashedFunds;
    }

    function getActiveJobCount(address worker) external view returns (uint256) {
        return _s.workers[worker].activeJobs;
    }

    function getOffenseCount(address worker) external view returns (uint256) {
        return _s.workers[worker].offenses;
    }

    function getSuspendedUntil(address worker) external view returns (uint256) {
        return _s.workers[worker].suspendedUntil;
    }

    function getWorkerStake(address worker) external view returns (uint256) {
        return _s.workers[worker].stake;
    }

    function getWorkerEncryptionKey(address worker) external view returns (bytes memory) {
        return _s.workers[worker].encryptionKey;
    }

    function getWorkerCapabilities(address worker) external view returns (uint256) {
        return _s.workers[worker].capabilities;
    }

    function getCapabilityCount() external view returns (uint16) {
        return uint16(_s.capabilityNames.length);
    }

    function getCapabilityMask(string calldata name) external view returns (uint256) {
        return _s.capabilityMasks[keccak256(bytes(name))];
    }

    function getCapabilityName(uint8 bit) external view returns (string memory) {
        return bit < _s.capabilityNames.length ? _s.capabilityNames[bit] : "";
    }

    /// @notice Models the worker lists, in no order.
    function getSupportedModels(address worker) external view returns (bytes32[] memory) {
        return _s.workers[worker].models;
    }

    function isModelWhitelisted(bytes32 modelId) external view returns (bool) {
        return _s.whitelisted[modelId];
    }

    function isWorkerRegistered(address worker) external view returns (bool) {
        return _s.workers[worker].registered;
    }

    /// @notice True until `reinstate`, also after the cooldown has run out.
    function isWorkerSuspended(address worker) external view returns (bool) {
        return _s.workers[worker].suspended;
    }

    function workerSupportsModel(address worker, bytes32 modelId) external view returns (bool) {
        return _s.listings[worker][modelId].modelPos != 0;
    }

    /// @notice Total stake at the end of a past block.
    function getTotalStaked(uint256 blockNumber) external view returns (uint256) {
        return _s.totalStaked.upperLookupRecent(blockNumber > type(uint48).max ? type(uint48).max : uint48(blockNumber));
    }

    /// @notice The last block in which the worker did something that may raise its weight in a draw: registered, topped up,
    /// listed a model, reinstated itself. Whoever draws by a seed counts a worker only if that was before the seed could
    /// be known.
    function getWeightSince(address worker) external view returns (uint256) {
        return _s.weightSince[worker];
    }

    /// @notice Registered, lists the whitelisted model, holds the minimum stake and is not suspended.
    function isEligible(address worker, bytes32 modelId) public view returns (bool) {
        return _s.whitelisted[modelId] && _s.listings[worker][modelId].modelPos != 0
            && _inGoodStanding(_s.workers[worker], _s.aiConfig.getMinWorkerStake());
    }

    /// @notice Everyone eligible for the model. For readers off chain: it walks the whole set.
    function getEligibleWorkers(bytes32 modelId) external view returns (address[] memory) {
        if (!_s.whitelisted[modelId]) return new address[](0);
        address[] storage set = _s.eligible[modelId];
        uint256 minStake = _s.aiConfig.getMinWorkerStake();
        uint256 length = set.length;
        address[] memory found = new address[](length);
        uint256 n;
        for (uint256 i = 0; i < length; ++i) {
            if (_inGoodStanding(_s.workers[set[i]], minStake)) found[n++] = set[i];
        }
        assembly ("memory-safe") {
            mstore(found, n)
        }
        return found;
    }

    /// @notice A pseudo-random eligible worker outside `excluded`, by stake up to ten minimum stakes: a thousand minimum
    /// stakes are drawn no more often than the same stake in a hundred workers of ten. At most sixteen workers are drawn,
    /// each kept with the probability that its stake has of the cap, so the cost does not grow with the set; the last
    /// resort is the first of them that may serve, and in a set of at most sixteen anyone who may.
    function selectEligibleWorker(bytes32 modelId, address[] calldata excluded, uint256 seed)
        external
        view
        returns (address)
    {
        address[] storage set = _s.eligible[modelId];
        uint256 length = set.length;
        if (length == 0 || !_s.whitelisted[modelId]) revert NoEligibleWorkers();
        uint256 minStake = _s.aiConfig.getMinWorkerStake();
        uint256 cap = minStake * STAKE_CAP_MULTIPLE;
        address resort;
        uint256 start = uint256(keccak256(abi.encode(seed, uint256(0))));
        uint256 draw = start;
        for (uint256 i = 1; i <= MAX_DRAWS; ++i) {
            address candidate = set[draw % length];
            Worker storage w = _s.workers[candidate];
            if (_inGoodStanding(w, minStake) && !_contains(excluded, candidate)) {
                // The other half of the number, so that place and chance are independent.
                if (w.stake >= cap || (draw >> 128) % cap < w.stake) return candidate;
                if (resort == address(0)) resort = candidate;
            }
            draw = uint256(keccak256(abi.encode(seed, i)));
        }
        for (uint256 i = 0; resort == address(0) && length <= MAX_DRAWS && i < length; ++i) {
            address candidate = set[(start % length + i) % length];
            if (_inGoodStanding(_s.workers[candidate], minStake) && !_contains(excluded, candidate)) resort = candidate;
        }
        if (resort == address(0)) revert NoEligibleWorkers();
        return resort;
    }

    // ---------------------------------------------------------------- internal

    function _registered(address worker) private view returns (Worker storage w) {
        w = _s.workers[worker];
        if (!w.registered) revert WorkerNotRegistered(worker);
    }

    function _inGoodStanding(Worker storage w, uint256 minStake) private view returns (bool) {
        return w.registered && !w.suspended && w.stake >= minStake;
    }

    function _contains(address[] calldata list, address item) private pure returns (bool) {
        for (uint256 i = 0; i < list.length; ++i) {
            if (list[i] == item) return true;
        }
        return false;
    }

    /// @dev 0x04 || x || y of a point on P-256.
    function _checkKey(bytes calldata key) private pure {
        if (
            key.length != 65 || key[0] != 0x04
                || !P256.isValidPublicKey(bytes32(key[1:33]), bytes32(key[33:65]))
        ) revert InvalidEncryptionKey();
    }

    function _touchWeight(address worker) private {
        _s.weightSince[worker] = block.number.toUint48();
    }

    function _liftSuspension(Worker storage w, address worker) private {
        w.suspended = false;
        w.suspendedUntil = 0;
        w.offenses = 0;
        emit WorkerReinstated(worker);
    }

    function _slash(address worker, uint256 bps) private returns (uint256 amount) {
        Worker storage w = _s.workers[worker];
        IAIConfig config = _s.aiConfig;
        uint256 cap = config.getMaxSlashBps();
        uint32 offenses = w.offenses;
        // 2^14 exceeds every ratio of two basis-point values: a higher shift cannot change the minimum.
        uint256 rate = bps << (offenses < 14 ? offenses : 14);
        if (rate > cap) rate = cap;
        amount = config.getMinWorkerStake() * rate / BPS;
        if (amount > w.stake) amount = w.stake;
        uint256 newStake = w.stake - amount;
        w.stake = uint96(newStake);
        if (offenses != type(uint32).max) w.offenses = ++offenses;
        _subTotal(amount);
        emit WorkerSlashed(worker, amount, newStake);
        if (offenses >= config.getSuspensionThreshold() && !w.suspended) {
            w.suspended = true;
            w.suspendedUntil = uint40(block.timestamp + config.getSuspensionCooldown());
            emit WorkerSuspended(worker, w.suspendedUntil);
        }
        _sync(worker, w);
    }

    /// @dev Bounded by MAX_MODELS.
    function _sync(address worker, Worker storage w) private {
        bool standing = _inGoodStanding(w, _s.aiConfig.getMinWorkerStake());
        uint256 n = w.models.length;
        for (uint256 i = 0; i < n; ++i) {
            bytes32 modelId = w.models[i];
            Listing storage l = _s.listings[worker][modelId];
            if (standing) _join(worker, modelId, l);
            else _leave(worker, modelId, l);
        }
    }

    function _join(address worker, bytes32 modelId, Listing storage l) private {
        if (l.eligiblePos != 0) return;
        address[] storage set = _s.eligible[modelId];
        set.push(worker);
        l.eligiblePos = set.length.toUint32();
        emit WorkerActivated(worker, modelId);
    }

    function _leave(address worker, bytes32 modelId, Listing storage l) private {
        uint256 pos = l.eligiblePos;
        if (pos == 0) return;
        address[] storage set = _s.eligible[modelId];
        address last = set[set.length - 1];
        set[pos - 1] = last;
        _s.listings[last][modelId].eligiblePos = uint32(pos);
        set.pop();
        l.eligiblePos = 0;
        emit WorkerDeactivated(worker, modelId);
    }

    function _unlist(address worker, Worker storage w, bytes32 modelId) private {
        Listing storage l = _s.listings[worker][modelId];
        _leave(worker, modelId, l);
        uint256 pos = l.modelPos;
        bytes32 last = w.models[w.models.length - 1];
        w.models[pos - 1] = last;
        _s.listings[worker][last].modelPos = uint32(pos);
        w.models.pop();
        l.modelPos = 0;
        emit ModelRemoved(worker, modelId);
    }

    function _addTotal(uint256 amount) private {
        _s.totalStaked.push(block.number.toUint48(), (_s.totalStaked.latest() + amount).toUint208());
    }

    function _subTotal(uint256 amount) private {
        if (amount == 0) return;
        _s.totalStaked.push(block.number.toUint48(), (_s.totalStaked.latest() - amount).toUint208());
    }
}
