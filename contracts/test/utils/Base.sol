// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {AIConfig} from "../../src/AIConfig.sol";
import {JobRegistry} from "../../src/JobRegistry.sol";
import {WorkerRegistry} from "../../src/WorkerRegistry.sol";
import {IJobRegistry} from "../../src/interfaces/IJobRegistry.sol";
import {Vm} from "./Vm.sol";

/// @dev The three registries behind proxies, as genesis deploys them, with two workers and one user.
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

    AIConfig internal config;
    WorkerRegistry internal workers;
    JobRegistry internal jobs;

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
        config.registerModel(MODEL, FEE, 2048);
        workers.addWhitelistedModel(MODEL);
        vm.stopPrank();
        join(worker, 0xe1, MIN_STAKE);
        join(worker2, 0xe2, MIN_STAKE);
        vm.deal(user, 1000 ether);
    }

    /// @dev A proxy is initialised by its constructor, so the registries' addresses are worked out beforehand.
    function deploy() internal {
        AIConfig configCode = new AIConfig();
        WorkerRegistry workersCode = new WorkerRegistry();
        JobRegistry jobsCode = new JobRegistry();
        uint256 n = vm.getNonce(address(this));
        address workersAt = vm.computeCreateAddress(address(this), n + 1);
        address jobsAt = vm.computeCreateAddress(address(this), n + 2);
        config = AIConfig(proxy(address(configCode), abi.encodeCall(AIConfig.initialize, (owner, dispatcher, disputer))));
        workers = WorkerRegistry(
            proxy(
                address(workersCode),
                abi.encodeCall(WorkerRegistry.initialize, (owner, address(config), jobsAt, treasury, guardian))
            )
        );
        jobs = JobRegistry(
            proxy(
                address(jobsCode),
                abi.encodeCall(
                    JobRegistry.initialize, (owner, workersAt, address(config), treasury, feePool, guardian)
                )
            )
        );
        require(address(workers) == workersAt && address(jobs) == jobsAt, "addresses");
    }

    function proxy(address implementation, bytes memory data) internal returns (address) {
        return address(new ERC1967Proxy(implementation, data));
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
        uint256 expiry = block.timestamp + 120;
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

    function err(bytes4 selector, uint256 a, uint256 b, uint256 c) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, a, b, c);
    }
}
