// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {AIConfig} from "../src/AIConfig.sol";
import {CanaryLedger} from "../src/CanaryLedger.sol";
import {JobRegistry} from "../src/JobRegistry.sol";
import {ReputationRegistry} from "../src/ReputationRegistry.sol";
import {SessionManager} from "../src/SessionManager.sol";
import {WorkerRegistry} from "../src/WorkerRegistry.sol";

interface Cheats {
    function envAddress(string calldata name) external view returns (address);
    function startBroadcast() external;
    function stopBroadcast() external;
    function getNonce(address account) external view returns (uint64);
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
}

/// @title Deploy
/// @notice Puts the contracts on a running chain. The deployer wires them and hands them to the owner:
/// OWNER=0x.. DISPATCHER=0x.. DISPUTER=0x.. TREASURY=0x.. FEE_POOL=0x.. GUARDIAN=0x.. \
/// forge script script/Deploy.s.sol --rpc-url .. --private-key .. --broadcast --slow
contract Deploy {
    Cheats private constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));
    /// @dev forge finds scripts by this.
    bool public constant IS_SCRIPT = true;

    AIConfig public config;
    WorkerRegistry public workers;
    JobRegistry public jobs;
    ReputationRegistry public reputation;
    SessionManager public manager;
    CanaryLedger public ledger;

    function run() external {
        address treasury = vm.envAddress("TREASURY");
        address guardian = vm.envAddress("GUARDIAN");
        vm.startBroadcast();
        address me = msg.sender;
        AIConfig configCode = new AIConfig();
        WorkerRegistry workersCode = new WorkerRegistry();
        JobRegistry jobsCode = new JobRegistry();
        config = AIConfig(
            proxy(
                address(configCode),
                abi.encodeCall(
                    AIConfig.initialize, (me, vm.envAddress("DISPATCHER"), vm.envAddress("DISPUTER"))
                )
            )
        );
        // A proxy is initialised by its constructor and the two registries name each other.
        address jobsAt = vm.computeCreateAddress(me, vm.getNonce(me) + 1);
        workers = WorkerRegistry(
            proxy(
                address(workersCode),
                abi.encodeCall(WorkerRegistry.initialize, (me, address(config), jobsAt, treasury, guardian))
            )
        );
        jobs = JobRegistry(
            proxy(
                address(jobsCode),
                abi.encodeCall(
                    JobRegistry.initialize,
                    (me, address(workers), address(config), treasury, vm.envAddress("FEE_POOL"), guardian)
                )
            )
        );
        require(address(jobs) == jobsAt, "another transaction came between");
        deployRest(me);
        handOver(vm.envAddress("OWNER"));
        vm.stopBroadcast();
    }

    function deployRest(address me) private {
        reputation = ReputationRegistry(
            proxy(
                address(new ReputationRegistry()),
                abi.encodeCall(ReputationRegistry.initialize, (me, address(jobs)))
            )
        );
        manager = SessionManager(
            proxy(
                address(new SessionManager()),
                abi.encodeCall(
                    SessionManager.initialize,
                    (me, address(jobs), address(workers), address(config), address(reputation))
                )
            )
        );
        ledger = CanaryLedger(
            proxy(
                address(new CanaryLedger()),
                abi.encodeCall(CanaryLedger.initialize, (me, address(jobs), address(config)))
            )
        );
    }

    function handOver(address owner) private {
        jobs.setReputationRegistry(address(reputation));
        config.setSessionManagerAddress(address(manager));
        config.transferOwnership(owner);
        workers.transferOwnership(owner);
        jobs.transferOwnership(owner);
        reputation.transferOwnership(owner);
        manager.transferOwnership(owner);
        ledger.transferOwnership(owner);
    }

    function proxy(address implementation, bytes memory data) private returns (address) {
        return address(new ERC1967Proxy(implementation, data));
    }
}
