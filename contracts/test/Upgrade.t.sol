// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {ERC1967Utils} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Utils.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts/proxy/utils/UUPSUpgradeable.sol";
import {Initializable} from "@openzeppelin/contracts/proxy/utils/Initializable.sol";
import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {IAIConfig} from "../src/interfaces/IAIConfig.sol";
import {ICanaryLedger} from "../src/interfaces/ICanaryLedger.sol";
import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {IReputationRegistry} from "../src/interfaces/IReputationRegistry.sol";
import {ISessionManager} from "../src/interfaces/ISessionManager.sol";
import {IWorkerRegistry} from "../src/interfaces/IWorkerRegistry.sol";
import {IOwned, Roles} from "./utils/Api.sol";
import {Base} from "./utils/Base.sol";

interface ITimelock {
    function schedule(
        address target,
        uint256 value,
        bytes calldata data,
        bytes32 predecessor,
        bytes32 salt,
        uint256 delay
    ) external;
    function execute(address target, uint256 value, bytes calldata data, bytes32 predecessor, bytes32 salt)
        external
        payable;
}

/// @dev Answers proxiableUUID with a slot of its own.
contract WrongUuid {
    function proxiableUUID() external pure returns (bytes32) {
        return bytes32(uint256(1));
    }
}

contract UpgradeTest is Base {
    struct Kind {
        address proxy_;
        string artifact;
        bytes again;
    }

    function kinds() internal view returns (Kind[6] memory) {
        return [
            Kind(
                address(config),
                "AIConfig.sol:AIConfig",
                abi.encodeCall(IAIConfig.initialize, (address(this), address(1), address(2)))
            ),
            Kind(
                address(workers),
                "WorkerRegistry.sol:WorkerRegistry",
                abi.encodeCall(
                    IWorkerRegistry.initialize, (address(this), address(1), address(2), address(3), address(4))
                )
            ),
            Kind(
                address(jobs),
                "JobRegistry.sol:JobRegistry",
                abi.encodeCall(
                    IJobRegistry.initialize,
                    (address(this), address(1), address(2), address(3), address(4), address(5))
                )
            ),
            Kind(
                address(manager),
                "SessionManager.sol:SessionManager",
                abi.encodeCall(
                    ISessionManager.initialize, (address(this), address(1), address(2), address(3), address(4))
                )
            ),
            Kind(
                address(reputation),
                "ReputationRegistry.sol:ReputationRegistry",
                abi.encodeCall(IReputationRegistry.initialize, (address(this), address(1)))
            ),
            Kind(
                address(ledger),
                "CanaryLedger.sol:CanaryLedger",
                abi.encodeCall(ICanaryLedger.initialize, (address(this), address(1), address(2)))
            )
        ];
    }

    function call(address to, bytes memory data) internal {
        (bool ok, bytes memory out) = to.call(data);
        if (!ok) {
            assembly {
                revert(add(out, 32), mload(out))
            }
        }
    }

    function test_strangersUpgradeNothing() public {
        Kind[6] memory all = kinds();
        for (uint256 i = 0; i < all.length; ++i) {
            address next = vm.deployCode(all[i].artifact);
            vm.expectRevert(
                abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, address(this))
            );
            IOwned(all[i].proxy_).upgradeToAndCall(next, "");
            vm.prank(guardian);
            vm.expectRevert(
                abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, guardian)
            );
            IOwned(all[i].proxy_).upgradeToAndCall(next, "");
            vm.prank(owner);
            IOwned(all[i].proxy_).upgradeToAndCall(next, "");
            vm.assertEq(IOwned(all[i].proxy_).owner(), owner);
        }
    }

    function test_nobodyInitialisesTwiceNorAnImplementation() public {
        Kind[6] memory all = kinds();
        for (uint256 i = 0; i < all.length; ++i) {
            vm.expectRevert(Initializable.InvalidInitialization.selector);
            call(all[i].proxy_, all[i].again);
            address bare = vm.deployCode(all[i].artifact);
            vm.expectRevert(Initializable.InvalidInitialization.selector);
            call(bare, all[i].again);
            vm.expectRevert(UUPSUpgradeable.UUPSUnauthorizedCallContext.selector);
            IOwned(bare).upgradeToAndCall(bare, "");
            vm.assertEq(
                IOwned(bare).proxiableUUID(), 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc
            );
            vm.assertEq(IOwned(bare).UPGRADE_INTERFACE_VERSION(), "5.0.0");
        }
    }

    function test_upgradeTakesUupsImplementationsOnly() public {
        vm.startPrank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(ERC1967Utils.ERC1967InvalidImplementation.selector, address(config))
        );
        // A proxy has no proxiableUUID of its own: the call comes through the wrong context.
        jobs.upgradeToAndCall(address(config), "");
        address wrong = address(new WrongUuid());
        vm.expectRevert(
            abi.encodeWithSelector(UUPSUpgradeable.UUPSUnsupportedProxiableUUID.selector, bytes32(uint256(1)))
        );
        jobs.upgradeToAndCall(wrong, "");
        vm.stopPrank();
    }

    function test_upgradeKeepsMoneyAndSessions() public {
        uint256 session = openSession(user, worker);
        uint256 job = submit(session);
        bytes32 before = keccak256(abi.encode(jobs.getJob(job), jobs.getSession(session)));
        address next = vm.deployCode("JobRegistry.sol:JobRegistry");
        vm.prank(owner);
        jobs.upgradeToAndCall(next, "");
        vm.assertEq(keccak256(abi.encode(jobs.getJob(job), jobs.getSession(session))), before);
        complete(job);
        vm.warp(time() + 3601);
        jobs.releaseJob(job);
        vm.assertEq(stateOf(job), 6);
    }

    function test_aTimelockCanOwnThem() public {
        address[] memory gov = new address[](1);
        gov[0] = address(this);
        ITimelock timelock = ITimelock(
            vm.deployCode("TimelockController.sol:TimelockController", abi.encode(2 days, gov, gov, address(0)))
        );
        vm.prank(owner);
        jobs.transferOwnership(address(timelock));
        address next = vm.deployCode("JobRegistry.sol:JobRegistry");
        bytes memory data = abi.encodeCall(IOwned.upgradeToAndCall, (next, ""));
        timelock.schedule(address(jobs), 0, data, 0, 0, 2 days);
        vm.expectRevert();
        timelock.execute(address(jobs), 0, data, 0, 0);
        vm.warp(time() + 2 days);
        timelock.execute(address(jobs), 0, data, 0, 0);
        vm.assertEq(
            address(uint160(uint256(vm.load(address(jobs), 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc)))),
            next
        );
    }

    function test_zeroAddressesAtInitialisation() public {
        bytes4 zero = IJobRegistry.ZeroAddress.selector;
        address a = address(1);
        address[2] memory pair = [a, a];
        for (uint256 i = 0; i < 2; ++i) {
            pair[i] = address(0);
            refused("SessionManager.sol:SessionManager", abi.encodeCall(ISessionManager.initialize, (owner, pair[0], pair[1], a, a)), zero);
            refused("CanaryLedger.sol:CanaryLedger", abi.encodeCall(ICanaryLedger.initialize, (owner, pair[0], pair[1])), zero);
            refused("JobRegistry.sol:JobRegistry", abi.encodeCall(IJobRegistry.initialize, (owner, pair[0], pair[1], a, a, a)), zero);
            refused("JobRegistry.sol:JobRegistry", abi.encodeCall(IJobRegistry.initialize, (owner, a, a, pair[0], pair[1], a)), zero);
            refused("WorkerRegistry.sol:WorkerRegistry", abi.encodeCall(IWorkerRegistry.initialize, (owner, pair[0], pair[1], a, a)), zero);
            pair[i] = a;
        }
        refused("WorkerRegistry.sol:WorkerRegistry", abi.encodeCall(IWorkerRegistry.initialize, (owner, a, a, address(0), a)), zero);
        refused("SessionManager.sol:SessionManager", abi.encodeCall(ISessionManager.initialize, (owner, a, a, address(0), a)), zero);
        refused("ReputationRegistry.sol:ReputationRegistry", abi.encodeCall(IReputationRegistry.initialize, (owner, address(0))), zero);
        refused("AIConfig.sol:AIConfig", abi.encodeCall(IAIConfig.initialize, (owner, a, address(0))), zero);
        refused("AIConfig.sol:AIConfig", abi.encodeCall(IAIConfig.initialize, (address(0), a, a)), OwnableUpgradeable.OwnableInvalidOwner.selector);
        // Neither a guardian nor a dispatcher is needed.
        deployWith(Roles(owner, address(0), disputer, treasury, feePool, address(0)));
    }

    function refused(string memory artifact, bytes memory data, bytes4 why) internal {
        address bare = vm.deployCode(artifact);
        vm.expectPartialRevert(why);
        new ERC1967Proxy(bare, data);
    }
}
