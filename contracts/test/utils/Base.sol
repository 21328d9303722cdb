// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {IAIConfig} from "../../src/interfaces/IAIConfig.sol";
import {ICanaryLedger} from "../../src/interfaces/ICanaryLedger.sol";
import {IJobRegistry} from "../../src/interfaces/IJobRegistry.sol";
import {IReputationRegistry} from "../../src/interfaces/IReputationRegistry.sol";
import {ISessionManager} from "../../src/interfaces/ISessionManager.sol";
import {IWorkerRegistry} from "../../src/interfaces/IWorkerRegistry.sol";
import {Vm} from "./Vm.sol";
import {IConfig, IJobs, ILedger, IReputations, ISessions, IWorkers, Roles} from "./Api.sol";

/// @dev All contracts behind proxies, as genesis deploys them, with two workers and one user.
abstract contract Base {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 internal constant DISPATCHER_KEY = 0xd15;
    uint256 internal constant DISPUTER_KEY = 0xd16;
    uint256 internal constant WORKER_KEY = 0xa1;
    uint256 internal constant WORKER2_KEY = 0xa2;
    uint256 internal constant USER_KEY = 0xb1;
    bytes32 internal constant MODEL = keccak256("llama3-8b");
    uint256 internal constant FEE = 0.02 ether;
    uint256 internal constant MIN_STAKE = 5000 ether;
    bytes32 internal constant PROMPT = bytes32(uint256(1) << 248 | 0x11);
    bytes32 internal constant RESPONSE = bytes32(uint256(1) << 248 | 0x22);

    IConfig internal config;
    IWorkers internal workers;
    IJobs internal jobs;
    IReputations internal reputation;
    ISessions internal manager;
    ILedger internal ledger;

    address internal owner = address(0x0411);
    address internal guardian = address(0x64a4);
    address internal treasury = address(0x7e50);
    address internal feePool = address(0x1004);
    address internal keeper = address(0x4ee9);
    address internal dispatcher = vm.addr(DISPATCHER_KEY);
    address internal disputer = vm.addr(DISPUTER_KEY);
    address internal worker = vm.addr(WORKER_KEY);
    address internal worker2 = vm.addr(WORKER2_KEY);
    address internal user = vm.addr(USER_KEY);

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        deploy();
        vm.startPrank(owner);
        jobs.setReputationRegistry(address(reputation));
        config.setSessionManagerAddress(address(manager));
        config.setSortitionEnabled(true);
        config.registerModel(MODEL, FEE, 2048);
        workers.addWhitelistedModel(MODEL);
        vm.stopPrank();
        join(worker, 0xe1, MIN_STAKE);
        join(worker2, 0xe2, MIN_STAKE);
        vm.deal(user, 1000 ether);
    }

    function deploy() internal {
        deployWith(Roles(owner, dispatcher, disputer, treasury, feePool, guardian));
    }

    /// @dev Every contract behind its proxy, as genesis deploys them, from its artefact: importing the code into each test
    /// would compile it once more for each. A proxy is initialised by its constructor, so the registries' addresses
    /// are worked out beforehand.
    function deployWith(Roles memory r) internal {
        address configCode = vm.deployCode("AIConfig.sol:AIConfig");
        address workersCode = vm.deployCode("WorkerRegistry.sol:WorkerRegistry");
        address jobsCode = vm.deployCode("JobRegistry.sol:JobRegistry");
        uint256 n = vm.getNonce(address(this));
        address workersAt = vm.computeCreateAddress(address(this), n + 1);
        address jobsAt = vm.computeCreateAddress(address(this), n + 2);
        config = IConfig(proxy(configCode, abi.encodeCall(IAIConfig.initialize, (r.owner, r.dispatcher, r.disputer))));
        workers = IWorkers(
            proxy(
                workersCode,
                abi.encodeCall(
                    IWorkerRegistry.initialize, (r.owner, address(config), jobsAt, r.treasury, r.guardian)
                )
            )
        );
        jobs = IJobs(
            proxy(
                jobsCode,
                abi.encodeCall(
                    IJobRegistry.initialize,
                    (r.owner, workersAt, address(config), r.treasury, r.feePool, r.guardian)
                )
            )
        );
        require(address(workers) == workersAt && address(jobs) == jobsAt, "addresses");
        reputation = IReputations(
            proxy(
                vm.deployCode("ReputationRegistry.sol:ReputationRegistry"),
                abi.encodeCall(IReputationRegistry.initialize, (r.owner, address(jobs)))
            )
        );
        manager = ISessions(
            proxy(
                vm.deployCode("SessionManager.sol:SessionManager"),
                abi.encodeCall(
                    ISessionManager.initialize,
                    (r.owner, address(jobs), address(workers), address(config), address(reputation))
                )
            )
        );
        ledger = ILedger(
            proxy(
                vm.deployCode("CanaryLedger.sol:CanaryLedger"),
                abi.encodeCall(ICanaryLedger.initialize, (r.owner, address(jobs), address(config)))
            )
        );
    }

    function proxy(address implementation, bytes memory data) internal returns (address) {
        return address(new ERC1967Proxy(implementation, data));
    }

    /// @dev Printed with -vv.
    function print(string memory what, uint256 value) internal view {
        (bool ignored,) = 0x000000000000000000636F6e736F6c652e6c6f67.staticcall(
            abi.encodeWithSignature("log(string,uint256)", what, value)
        );
        ignored;
    }

    /// @dev The optimiser takes the block's time for a constant within a test and moves its reads across a warp.
    function time() internal view returns (uint256) {
        return vm.getBlockTimestamp();
    }

    function height() internal view returns (uint256) {
        return vm.getBlockNumber();
    }

    function join(address who, uint256 p256Key, uint256 stake) internal {
        vm.deal(who, stake + 10 ether);
        vm.startPrank(who);
        workers.registerWorker{value: stake}(publicKey(p256Key));
        workers.addSupportedModel(MODEL);
        vm.stopPrank();
    }

    function publicKey(uint256 p256Key) internal pure returns (bytes memory) {
        (uint256 x, uint256 y) = vm.publicKeyP256(p256Key);
        return abi.encodePacked(uint8(4), x, y);
    }

    function wrappedKey(uint256 seed) internal pure returns (bytes memory out) {
        out = new bytes(125);
        for (uint256 i = 0; i < 125; ++i) {
            out[i] = bytes1(uint8(uint256(keccak256(abi.encode(seed, i)))));
        }
    }

    function signature(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    /// @dev Written out here again, so that a wrong type string in the contract shows.
    function typed(bytes32 structHash) internal view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("LightChain JobRegistry"),
                keccak256("1"),
                block.chainid,
                address(jobs)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    function authorization(
        uint256 key,
        address who,
        address worker_,
        bytes memory encWorker,
        bytes memory encDisputer,
        uint256 nonce,
        uint256 expiry
    ) internal view returns (bytes memory) {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "SessionAuthorization(address user,bytes32 modelId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry)"
                ),
                who,
                MODEL,
                worker_,
                keccak256(encWorker),
                keccak256(encDisputer),
                nonce,
                expiry
            )
        );
        return signature(key, typed(structHash));
    }

    function openSession(address who, address worker_) internal returns (uint256) {
        uint256 expiry = time() + 120;
        bytes memory ew = wrappedKey(1);
        bytes memory ed = wrappedKey(2);
        bytes memory sig = authorization(DISPATCHER_KEY, who, worker_, ew, ed, jobs.nonce(who), expiry);
        vm.prank(who);
        return jobs.createSession(MODEL, worker_, ew, ed, sig, expiry);
    }

    function submit(uint256 sessionId) internal returns (uint256) {
        return submitAs(user, sessionId);
    }

    function submitAs(address who, uint256 sessionId) internal returns (uint256) {
        uint256 fee = config.calculateJobFee(MODEL);
        vm.prank(who);
        return jobs.submitJob{value: fee}(sessionId, PROMPT);
    }

    function acknowledge(uint256 jobId) internal {
        vm.prank(jobs.getJob(jobId).worker);
        jobs.acknowledgeJob(jobId);
    }

    function complete(uint256 jobId) internal {
        acknowledge(jobId);
        vm.prank(jobs.getJob(jobId).worker);
        jobs.completeJob(jobId, RESPONSE, keccak256("ciphertext"));
    }

    function completedJob() internal returns (uint256 jobId) {
        jobId = submit(openSession(user, worker));
        complete(jobId);
    }

    function stateOf(uint256 jobId) internal view returns (uint256) {
        return uint256(jobs.getJob(jobId).state);
    }

    /// @dev The live digest of a response (EIP-191 over an abi-encoded hash), which is not EIP-712.
    function responseDigest(uint256 jobId, bytes memory ciphertext) internal view returns (bytes32) {
        bytes32 inner = keccak256(
            abi.encode(block.chainid, address(jobs), jobId, jobs.getJob(jobId).sessionId, ciphertext)
        );
        return keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", inner));
    }

    /// @dev The same signature with the other s: valid to ecrecover, malleable.
    function malleable(bytes memory sig) internal pure returns (bytes memory) {
        (bytes32 r, bytes32 s, uint8 v) = split(sig);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        return abi.encodePacked(r, bytes32(order - uint256(s)), v == 27 ? uint8(28) : uint8(27));
    }

    function split(bytes memory sig) internal pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly {
            r := mload(add(sig, 32))
            s := mload(add(sig, 64))
            v := byte(0, mload(add(sig, 96)))
        }
    }
}
