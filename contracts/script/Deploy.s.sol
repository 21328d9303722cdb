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
    function startBroadcast(address signer) external;
    function stopBroadcast() external;
    function getNonce(address account) external view returns (uint64);
    function computeCreateAddress(address deployer, uint256 nonce) external pure returns (address);
}

/// @title Deploy
/// @notice Puts the contracts on a running chain, wired as in genesis: sortition is off, no model is registered. The
/// deployer hands all of them to the owner, a timelock:
/// OWNER=0x.. DISPATCHER=0x.. DISPUTER=0x.. TREASURY=0x.. FEE_POOL=0x.. GUARDIAN=0x.. \
/// tools/forge script script/Deploy.s.sol --rpc-url .. --private-key .. --broadcast --slow
contract Deploy {
    /// @notice Who the contracts obey and pay; dispatcher and guardian may be zero for none.
    struct Roles {
        address owner;
        address dispatcher;
        address disputer;
        address treasury;
        address feePool;
        address guardian;
    }

    /// @notice The proxies.
    struct Deployed {
        address aiConfig;
        address workerRegistry;
        address jobRegistry;
        address reputationRegistry;
        address sessionManager;
        address canaryLedger;
    }

    Cheats private constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));
    /// @dev forge finds scripts by this.
    bool public constant IS_SCRIPT = true;

    function run() external returns (Deployed memory) {
        return deploy(
            Roles(
                vm.envAddress("OWNER"),
                vm.envAddress("DISPATCHER"),
                vm.envAddress("DISPUTER"),
                vm.envAddress("TREASURY"),
                vm.envAddress("FEE_POOL"),
                vm.envAddress("GUARDIAN")
            )
        );
    }

    function deploy(Roles memory roles) public returns (Deployed memory d) {
        // Without one nobody could ever upgrade or unpause.
        require(roles.owner != address(0), "OWNER is zero");
        address me = msg.sender;
        vm.startBroadcast(me);
        deployMarket(d, roles, me);
        deployRest(d, me);
        handOver(d, roles.owner);
        vm.stopBroadcast();
    }

    function deployMarket(Deployed memory d, Roles memory roles, address me) private {
        address workersCode = address(new WorkerRegistry());
        address jobsCode = address(new JobRegistry());
        d.aiConfig = proxy(
            address(new AIConfig()), abi.encodeCall(AIConfig.initialize, (me, roles.dispatcher, roles.disputer))
        );
        // A proxy is initialised by its constructor and the two registries name each other.
        address jobsAt = vm.computeCreateAddress(me, vm.getNonce(me) + 1);
        d.workerRegistry = proxy(
            workersCode,
            abi.encodeCall(
                WorkerRegistry.initialize, (me, d.aiConfig, jobsAt, roles.treasury, roles.guardian)
            )
        );
        d.jobRegistry = proxy(
            jobsCode,
            abi.encodeCall(
                JobRegistry.initialize,
                (me, d.workerRegistry, d.aiConfig, roles.treasury, roles.feePool, roles.guardian)
            )
        );
        require(d.jobRegistry == jobsAt, "another transaction of the deployer came between");
    }

    function deployRest(Deployed memory d, address me) private {
        d.reputationRegistry = proxy(
            address(new ReputationRegistry()),
            abi.encodeCall(ReputationRegistry.initialize, (me, d.jobRegistry))
        );
        d.sessionManager = proxy(
            address(new SessionManager()),
            abi.encodeCall(
                SessionManager.initialize,
                (me, d.jobRegistry, d.workerRegistry, d.aiConfig, d.reputationRegistry)
            )
        );
        d.canaryLedger = proxy(
            address(new CanaryLedger()), abi.encodeCall(CanaryLedger.initialize, (me, d.jobRegistry, d.aiConfig))
        );
    }

    function handOver(Deployed memory d, address owner) private {
        JobRegistry(d.jobRegistry).setReputationRegistry(d.reputationRegistry);
        AIConfig(d.aiConfig).setSessionManagerAddress(d.sessionManager);
        AIConfig(d.aiConfig).transferOwnership(owner);
        WorkerRegistry(d.workerRegistry).transferOwnership(owner);
        JobRegistry(d.jobRegistry).transferOwnership(owner);
        ReputationRegistry(d.reputationRegistry).transferOwnership(owner);
        SessionManager(d.sessionManager).transferOwnership(owner);
        CanaryLedger(d.canaryLedger).transferOwnership(owner);
    }

    function proxy(address implementation, bytes memory data) private returns (address) {
        return address(new ERC1967Proxy(implementation, data));
    }
}
