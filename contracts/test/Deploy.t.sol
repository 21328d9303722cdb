// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ERC1967Utils} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Utils.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {Deploy} from "../script/Deploy.s.sol";
import {IAIConfig} from "../src/interfaces/IAIConfig.sol";
import {ICanaryLedger} from "../src/interfaces/ICanaryLedger.sol";
import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {IReputationRegistry} from "../src/interfaces/IReputationRegistry.sol";
import {ISessionManager} from "../src/interfaces/ISessionManager.sol";
import {IWorkerRegistry} from "../src/interfaces/IWorkerRegistry.sol";
import {IConfig, IJobs, ILedger, IOwned, IReputations, ISessions, IWorkers} from "./utils/Api.sol";
import {Base} from "./utils/Base.sol";

/// @dev Runs the deployment script and looks at what it leaves, with the eyes of genesis.rs.
contract DeployTest is Base {
    address[6] internal proxies;

    function setUp() public override {
        vm.warp(1_800_000_000);
        vm.roll(1000);
        vm.setEnv("OWNER", vm.toString(owner));
        vm.setEnv("DISPATCHER", vm.toString(dispatcher));
        vm.setEnv("DISPUTER", vm.toString(disputer));
        vm.setEnv("TREASURY", vm.toString(treasury));
        vm.setEnv("FEE_POOL", vm.toString(feePool));
        vm.setEnv("GUARDIAN", vm.toString(guardian));
        Deploy.Deployed memory d = Deploy(vm.deployCode("Deploy.s.sol:Deploy")).run();
        config = IConfig(d.aiConfig);
        workers = IWorkers(d.workerRegistry);
        jobs = IJobs(d.jobRegistry);
        reputation = IReputations(d.reputationRegistry);
        manager = ISessions(d.sessionManager);
        ledger = ILedger(d.canaryLedger);
        proxies = [
            d.aiConfig,
            d.workerRegistry,
            d.jobRegistry,
            d.reputationRegistry,
            d.sessionManager,
            d.canaryLedger
        ];
    }

    function test_theScriptWiresTheContractsAsGenesisDoes() public {
        for (uint256 i = 0; i < proxies.length; ++i) {
            vm.assertEq(IOwned(proxies[i]).owner(), owner);
        }
        vm.assertEq(config.getDispatcherAddress(), dispatcher);
        vm.assertEq(config.getDisputerAddress(), disputer);
        vm.assertEq(config.getSessionManagerAddress(), address(manager));
        vm.assertFalse(config.getSortitionEnabled());
        vm.assertEq(workers.aiConfig(), address(config));
        vm.assertEq(workers.jobRegistry(), address(jobs));
        vm.assertEq(workers.getTreasury(), treasury);
        vm.assertEq(workers.guardian(), guardian);
        vm.assertEq(jobs.aiConfig(), address(config));
        vm.assertEq(jobs.workerRegistry(), address(workers));
        vm.assertEq(jobs.reputationRegistry(), address(reputation));
        vm.assertEq(jobs.treasury(), treasury);
        vm.assertEq(jobs.feePool(), feePool);
        vm.assertEq(jobs.guardian(), guardian);
        vm.assertEq(reputation.jobRegistry(), address(jobs));
        vm.assertEq(ledger.jobRegistry(), address(jobs));
        vm.assertEq(ledger.aiConfig(), address(config));
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.NotDisputer.selector, address(this), disputer));
        ledger.commit(1, keccak256("root"));
        vm.prank(disputer);
        ledger.commit(1, keccak256("root"));
    }

    /// @dev The proxies, and the implementations behind them.
    function test_nothingTheScriptLeavesCanBeInitialisedAgain() public {
        bytes[6] memory again = [
            abi.encodeCall(IAIConfig.initialize, (address(this), address(1), address(2))),
            abi.encodeCall(
                IWorkerRegistry.initialize, (address(this), address(1), address(2), address(3), address(4))
            ),
            abi.encodeCall(
                IJobRegistry.initialize,
                (address(this), address(1), address(2), address(3), address(4), address(5))
            ),
            abi.encodeCall(IReputationRegistry.initialize, (address(this), address(1))),
            abi.encodeCall(
                ISessionManager.initialize, (address(this), address(1), address(2), address(3), address(4))
            ),
            abi.encodeCall(ICanaryLedger.initialize, (address(this), address(1), address(2)))
        ];
        for (uint256 i = 0; i < proxies.length; ++i) {
            address code = address(uint160(uint256(vm.load(proxies[i], ERC1967Utils.IMPLEMENTATION_SLOT))));
            vm.assertTrue(code.code.length != 0);
            refuses(proxies[i], again[i]);
            refuses(code, again[i]);
        }
    }

    function refuses(address target, bytes memory initialize) private {
        (bool ok, bytes memory out) = target.call(initialize);
        vm.assertFalse(ok);
        vm.assertEq(out, abi.encodeWithSelector(Initializable.InvalidInitialization.selector));
    }

    /// @dev A job, a session by sortition: every contract finds the others.
    function test_whatTheScriptLeavesWorks() public {
        vm.startPrank(owner);
        config.registerModel(MODEL, FEE, 2048);
        workers.addWhitelistedModel(MODEL);
        config.setSortitionEnabled(true);
        vm.stopPrank();
        join(worker, 0xe1, MIN_STAKE);
        vm.deal(user, FEE);
        uint256 id = completedJob();
        vm.warp(time() + 3601);
        vm.prank(worker);
        jobs.releaseJob(id);
        vm.assertEq(jobs.workerBalance(worker), FEE * 8 / 10);
        vm.assertEq(feePool.balance, FEE / 20);
        vm.assertEq(treasury.balance, FEE - FEE * 8 / 10 - FEE / 20);
        vm.assertEq(reputation.getScore(worker), 5010);

        vm.prank(user);
        uint256 request = manager.requestSession(MODEL, time() + 3600);
        vm.roll(height() + 2 + config.getClaimWindowBlocks());
        vm.prank(worker);
        manager.claimSession(request);
        vm.prank(user);
        manager.provideSessionKey(request, wrappedKey(1), wrappedKey(2));
        vm.assertEq(jobs.getSession(2).worker, worker);
    }

    function test_theScriptWantsAnOwner() public {
        Deploy script = Deploy(vm.deployCode("Deploy.s.sol:Deploy"));
        vm.expectRevert("OWNER is zero");
        script.deploy(Deploy.Roles(address(0), dispatcher, disputer, treasury, feePool, guardian));
    }
}
