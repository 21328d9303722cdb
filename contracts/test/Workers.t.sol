// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IGuarded} from "../src/interfaces/IGuarded.sol";
import {IWorkerRegistry} from "../src/interfaces/IWorkerRegistry.sol";
import {IWorkerRegistryExtra} from "../src/interfaces/IWorkerRegistryExtra.sol";
import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {Base} from "./utils/Base.sol";

contract WorkersTest is Base {
    address internal fresh = address(0xf4e5);

    function register(uint256 stake) internal {
        vm.deal(fresh, stake);
        vm.prank(fresh);
        workers.registerWorker{value: stake}(publicKey(0xee));
    }

    function slash(address who, uint256 bps) internal {
        vm.prank(address(jobs));
        workers.slash(who, bps);
    }

    // ------------------------------------------------------------------ joining

    function test_registering() public {
        vm.deal(fresh, 3 * MIN_STAKE);
        bytes memory key = publicKey(0xee);
        vm.startPrank(fresh);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.InsufficientStake.selector, MIN_STAKE, MIN_STAKE - 1));
        workers.registerWorker{value: MIN_STAKE - 1}(key);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerRegistered(fresh, key);
        workers.registerWorker{value: MIN_STAKE + 1}(key);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerAlreadyRegistered.selector, fresh));
        workers.registerWorker{value: MIN_STAKE}(key);
        vm.stopPrank();
        vm.assertEq(workers.getWorkerStake(fresh), MIN_STAKE + 1);
        vm.assertEq(workers.getWorkerEncryptionKey(fresh), key);
        vm.assertTrue(workers.isWorkerRegistered(fresh));
        vm.assertFalse(workers.isEligible(fresh, MODEL), "no model yet");
    }

    function test_keysAreP256Points() public {
        vm.deal(fresh, 10 * MIN_STAKE);
        bytes memory good = publicKey(0xee);
        bytes[5] memory bad = [good, good, good, bytes(""), bytes.concat(good, hex"00")];
        bad[0] = abi.encodePacked(good);
        bad[0][0] = 0x02;
        bad[1] = abi.encodePacked(good);
        bad[1][64] = bytes1(uint8(bad[1][64]) ^ 1);
        bad[2] = abi.encodePacked(uint8(4), bytes32(0), bytes32(0));
        vm.startPrank(fresh);
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(IWorkerRegistry.InvalidEncryptionKey.selector);
            workers.registerWorker{value: MIN_STAKE}(bad[i]);
        }
        workers.registerWorker{value: MIN_STAKE}(good);
        vm.expectRevert(IWorkerRegistry.InvalidEncryptionKey.selector);
        workers.rotateEncryptionKey(bad[0]);
        bytes memory next = publicKey(0xef);
        vm.expectEmit(address(workers));
        emit IWorkerRegistryExtra.EncryptionKeyRotated(fresh, next);
        workers.rotateEncryptionKey(next);
        vm.stopPrank();
        vm.assertEq(workers.getWorkerEncryptionKey(fresh), next);
    }

    function test_strangersHaveNothingToChange() public {
        bytes memory unknown = abi.encodeWithSelector(IWorkerRegistry.WorkerNotRegistered.selector, address(this));
        vm.expectRevert(unknown);
        workers.topUpStake();
        vm.expectRevert(unknown);
        workers.withdrawStake(0);
        vm.expectRevert(unknown);
        workers.deregisterWorker();
        vm.expectRevert(unknown);
        workers.rotateEncryptionKey("");
        vm.expectRevert(unknown);
        workers.reinstate();
        vm.expectRevert(unknown);
        workers.addSupportedModel(MODEL);
        vm.expectRevert(unknown);
        workers.removeSupportedModel(MODEL);
        vm.expectRevert(unknown);
        workers.setCapabilities(0);
        vm.expectRevert(unknown);
        workers.syncEligibility(address(this));
    }

    // -------------------------------------------------------------------- stakes

    function test_stakeInAndOut() public {
        register(MIN_STAKE);
        vm.deal(fresh, 10);
        vm.startPrank(fresh);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.StakeTopUp(fresh, 10, MIN_STAKE + 10);
        workers.topUpStake{value: 10}();
        workers.addSupportedModel(MODEL);
        vm.expectPartialRevert(IWorkerRegistry.InsufficientStake.selector);
        workers.withdrawStake(11);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.StakeWithdrawn(fresh, 10, MIN_STAKE);
        workers.withdrawStake(10);
        vm.assertEq(fresh.balance, 10);
        workers.removeSupportedModel(MODEL);
        vm.expectPartialRevert(IWorkerRegistry.InsufficientStake.selector);
        workers.withdrawStake(MIN_STAKE + 1);
        workers.withdrawStake(MIN_STAKE);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.InsufficientStake.selector, MIN_STAKE, 0));
        workers.addSupportedModel(MODEL);
        vm.stopPrank();
    }

    function test_totalStakeHistory() public {
        uint256 start = height();
        vm.roll(start + 5);
        register(MIN_STAKE);
        vm.roll(start + 9);
        slash(worker, 1000);
        vm.assertEq(workers.getTotalStaked(start - 1), 0);
        vm.assertEq(workers.getTotalStaked(start), 2 * MIN_STAKE);
        vm.assertEq(workers.getTotalStaked(start + 4), 2 * MIN_STAKE);
        vm.assertEq(workers.getTotalStaked(start + 5), 3 * MIN_STAKE);
        vm.assertEq(workers.getTotalStaked(start + 9), 3 * MIN_STAKE - MIN_STAKE / 10);
        vm.assertEq(workers.getTotalStaked(type(uint256).max), 3 * MIN_STAKE - MIN_STAKE / 10);
    }

    function test_leaving() public {
        uint256 job = submit(openSession(user, worker));
        vm.startPrank(worker);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.ActiveJobsExist.selector, worker, 1));
        workers.deregisterWorker();
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.ActiveJobsExistForModel.selector, worker, MODEL, 1));
        workers.removeSupportedModel(MODEL);
        vm.stopPrank();
        complete(job);
        vm.warp(time() + 3601);
        jobs.releaseJob(job);
        vm.prank(worker);
        workers.removeSupportedModel(MODEL);
        uint256 before = worker.balance;
        vm.prank(worker);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerDeregistered(worker);
        workers.deregisterWorker();
        vm.assertEq(worker.balance - before, MIN_STAKE);
        vm.assertFalse(workers.isWorkerRegistered(worker));
        vm.assertFalse(workers.workerSupportsModel(worker, MODEL));
        vm.assertEq(workers.getWorkerEncryptionKey(worker).length, 0);
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 1);
        join(worker, 0xe1, MIN_STAKE);
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 2);
    }

    function test_aRefusingWorkerKeepsItsStake() public {
        vm.etch(worker, hex"fe");
        vm.startPrank(worker);
        workers.removeSupportedModel(MODEL);
        vm.expectRevert(IWorkerRegistry.TransferFailed.selector);
        workers.withdrawStake(1);
        vm.expectRevert(IWorkerRegistry.TransferFailed.selector);
        workers.deregisterWorker();
        vm.stopPrank();
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE);
    }

    // -------------------------------------------------------------------- models

    function test_models() public {
        bytes32 other = keccak256("other");
        register(MIN_STAKE);
        vm.startPrank(fresh);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.ModelNotWhitelisted.selector, other));
        workers.addSupportedModel(other);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.ModelNotSupported.selector, MODEL));
        workers.removeSupportedModel(MODEL);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.ModelAdded(fresh, MODEL);
        vm.expectEmit(address(workers));
        emit IWorkerRegistryExtra.WorkerActivated(fresh, MODEL);
        workers.addSupportedModel(MODEL);
        vm.assertTrue(workers.workerSupportsModel(fresh, MODEL));
        vm.assertTrue(workers.isEligible(fresh, MODEL));
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.ModelAlreadySupported.selector, MODEL));
        workers.addSupportedModel(MODEL);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerDeactivated(fresh, MODEL);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.ModelRemoved(fresh, MODEL);
        workers.removeSupportedModel(MODEL);
        vm.stopPrank();
    }

    function test_whitelist() public {
        bytes32 other = keccak256("other");
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.ModelNotRegistered.selector, other));
        workers.addWhitelistedModel(other);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.ModelNotWhitelisted.selector, other));
        workers.removeWhitelistedModel(other);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.ModelDelisted(MODEL);
        workers.removeWhitelistedModel(MODEL);
        vm.stopPrank();
        vm.assertFalse(workers.isModelWhitelisted(MODEL));
        vm.assertFalse(workers.isEligible(worker, MODEL));
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 0);
        vm.expectRevert(IWorkerRegistry.NoEligibleWorkers.selector);
        workers.selectEligibleWorker(MODEL, new address[](0), 1);
        vm.prank(owner);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.ModelWhitelisted(MODEL);
        workers.addWhitelistedModel(MODEL);
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 2);
    }

    function test_modelsPerWorkerAreBoundedAndRemovable() public {
        register(MIN_STAKE);
        bytes32[] memory ids = new bytes32[](17);
        for (uint256 i = 0; i < 17; ++i) {
            ids[i] = keccak256(abi.encode(i));
            vm.startPrank(owner);
            config.registerModel(ids[i], FEE, 1);
            workers.addWhitelistedModel(ids[i]);
            vm.stopPrank();
            vm.prank(fresh);
            if (i == 16) {
                vm.expectRevert(abi.encodeWithSelector(IWorkerRegistryExtra.TooManyModels.selector, fresh, 16));
            }
            workers.addSupportedModel(ids[i]);
        }
        vm.assertEq(workers.getSupportedModels(fresh).length, 16);
        // The middle one is replaced by the last; both stay consistent.
        vm.prank(fresh);
        workers.removeSupportedModel(ids[5]);
        vm.assertEq(workers.getSupportedModels(fresh)[5], ids[15]);
        vm.prank(fresh);
        workers.removeSupportedModel(ids[15]);
        vm.assertTrue(workers.isEligible(fresh, ids[14]));
        slash(fresh, 1);
        for (uint256 i = 0; i < 16; ++i) {
            vm.assertEq(workers.getEligibleWorkers(ids[i]).length, 0);
        }
        vm.prank(fresh);
        workers.deregisterWorker();
        vm.assertEq(workers.getSupportedModels(fresh).length, 0);
    }

    // ------------------------------------------------------------------ eligible

    function test_stakeRulesEligibility() public {
        slash(worker, 1);
        vm.assertFalse(workers.isEligible(worker, MODEL));
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 1);
        uint256 missing = MIN_STAKE - workers.getWorkerStake(worker);
        vm.deal(worker, missing);
        vm.startPrank(worker);
        workers.topUpStake{value: missing - 1}();
        vm.assertFalse(workers.isEligible(worker, MODEL));
        workers.topUpStake{value: 1}();
        vm.stopPrank();
        vm.assertTrue(workers.isEligible(worker, MODEL));
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 2);
    }

    function test_aHigherMinimumIsSeenAtOnceAndSyncedOnTouch() public {
        vm.prank(owner);
        config.setMinWorkerStake(MIN_STAKE + 1);
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 0);
        vm.expectRevert(IWorkerRegistry.NoEligibleWorkers.selector);
        workers.selectEligibleWorker(MODEL, new address[](0), 1);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerDeactivated(worker, MODEL);
        workers.syncEligibility(worker);
        vm.prank(owner);
        config.setMinWorkerStake(MIN_STAKE);
        vm.assertFalse(_contains(workers.getEligibleWorkers(MODEL), worker), "dropped until touched");
        workers.syncEligibility(worker);
        vm.assertTrue(_contains(workers.getEligibleWorkers(MODEL), worker));
    }

    function testFuzz_selection(uint256 seed, uint8 extra) public {
        uint256 n = 2 + extra % 30;
        for (uint256 i = 2; i < n; ++i) {
            join(address(uint160(0x9000 + i)), 0x100 + i, MIN_STAKE);
        }
        address[] memory excluded = new address[](1);
        excluded[0] = worker;
        address drawn = workers.selectEligibleWorker(MODEL, excluded, seed);
        vm.assertTrue(workers.isEligible(drawn, MODEL));
        vm.assertNotEq(drawn, worker);
        vm.assertEq(workers.selectEligibleWorker(MODEL, excluded, seed), drawn);
    }

    function test_selectionReachesEverybody() public {
        for (uint256 i = 2; i < 20; ++i) {
            join(address(uint160(0x9000 + i)), 0x100 + i, MIN_STAKE);
        }
        address[] memory set = workers.getEligibleWorkers(MODEL);
        uint256[] memory hits = new uint256[](set.length);
        for (uint256 seed = 0; seed < 400; ++seed) {
            address drawn = workers.selectEligibleWorker(MODEL, new address[](0), seed);
            for (uint256 k = 0; k < set.length; ++k) {
                if (set[k] == drawn) ++hits[k];
            }
        }
        for (uint256 k = 0; k < set.length; ++k) {
            vm.assertGt(hits[k], 0);
        }
    }

    /// @dev By count, three of thirty-five would be selected 34 times of 400; by stake, 193 times.
    function test_selectionFollowsTheStake() public {
        for (uint256 i = 0; i < 33; ++i) {
            join(address(uint160(0x9000 + i)), 0x100 + i, i < 30 ? MIN_STAKE : 10 * MIN_STAKE);
        }
        uint256 large;
        for (uint256 seed = 0; seed < 400; ++seed) {
            address drawn = workers.selectEligibleWorker(MODEL, new address[](0), seed);
            if (uint160(drawn) >= 0x9000 + 30 && uint160(drawn) < 0x9000 + 33) ++large;
        }
        print("selections of three workers of ten stakes beside 32 of one, of 400", large);
        vm.assertTrue(large > 150 && large < 225, "by stake");
    }

    function test_selectionWithEverybodyExcluded() public {
        address[] memory excluded = new address[](2);
        excluded[0] = worker2;
        excluded[1] = worker;
        vm.expectRevert(IWorkerRegistry.NoEligibleWorkers.selector);
        workers.selectEligibleWorker(MODEL, excluded, 3);
        vm.expectRevert(IWorkerRegistry.NoEligibleWorkers.selector);
        workers.selectEligibleWorker(keccak256("none"), new address[](0), 3);
    }

    // ------------------------------------------------------------------ slashing

    function test_offencesDoubleTheSlashUpToTheCap() public {
        vm.prank(owner);
        config.setSuspensionThreshold(1000);
        uint256 stake = MIN_STAKE;
        uint256[6] memory rates = [uint256(500), 1000, 2000, 4000, 2500, 0];
        for (uint256 i = 0; i < 6; ++i) {
            uint256 expected = MIN_STAKE * rates[i] / 10_000;
            vm.expectEmit(address(workers));
            emit IWorkerRegistry.WorkerSlashed(worker, expected, stake - expected);
            slash(worker, 500);
            stake -= expected;
        }
        vm.assertEq(workers.getWorkerStake(worker), 0);
        vm.assertEq(workers.getOffenseCount(worker), 6);
    }

    function test_capAppliesToTheRate() public {
        address rich = address(0x51c4);
        join(rich, 0xe7, 10 * MIN_STAKE);
        slash(rich, 9000);
        vm.assertEq(workers.getWorkerStake(rich), 10 * MIN_STAKE - MIN_STAKE / 2, "5000 bps of the minimum");
    }

    function testFuzz_slashNeverExceedsStakeOrCap(uint16 bps, uint8 times) public {
        uint256 rate = uint256(bps) % 10_001;
        for (uint256 i = 0; i < times % 40; ++i) {
            uint256 before = workers.getWorkerStake(worker);
            uint256 fundsBefore = workers.getSlashedFunds();
            slash(worker, rate);
            uint256 lost = before - workers.getWorkerStake(worker);
            vm.assertLe(lost, MIN_STAKE / 2);
            vm.assertEq(workers.getSlashedFunds() - fundsBefore, lost);
        }
    }

    function test_suspensionAndReinstatement() public {
        address rich = address(0x51c4);
        join(rich, 0xe7, 10 * MIN_STAKE);
        slash(rich, 100);
        slash(rich, 100);
        vm.assertTrue(workers.isEligible(rich, MODEL));
        uint256 until = time() + 7 days;
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerSuspended(rich, until);
        slash(rich, 100);
        vm.assertTrue(workers.isWorkerSuspended(rich));
        vm.assertEq(workers.getSuspendedUntil(rich), until);
        vm.assertFalse(workers.isEligible(rich, MODEL));
        vm.assertEq(workers.getEligibleWorkers(MODEL).length, 2);
        // A further offence does not lengthen it.
        vm.warp(time() + 1 days);
        slash(rich, 100);
        vm.assertEq(workers.getSuspendedUntil(rich), until);

        vm.startPrank(rich);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.StillSuspended.selector, rich, until));
        workers.reinstate();
        workers.removeSupportedModel(MODEL);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerIsSuspended.selector, rich, until));
        workers.addSupportedModel(MODEL);
        // Leaving and coming back is no way round it.
        workers.deregisterWorker();
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerIsSuspended.selector, rich, until));
        workers.registerWorker{value: MIN_STAKE}(publicKey(0xe7));
        vm.warp(until);
        workers.registerWorker{value: MIN_STAKE}(publicKey(0xe7));
        vm.stopPrank();
        vm.assertFalse(workers.isWorkerSuspended(rich));
        vm.assertEq(workers.getOffenseCount(rich), 0);
    }

    function test_reinstateEdges() public {
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerNotSuspended.selector, worker));
        workers.reinstate();
        address rich = address(0x51c4);
        join(rich, 0xe7, 10 * MIN_STAKE);
        for (uint256 i = 0; i < 3; ++i) {
            slash(rich, 100);
        }
        uint256 until = workers.getSuspendedUntil(rich);
        vm.warp(until - 1);
        vm.prank(rich);
        vm.expectPartialRevert(IWorkerRegistry.StillSuspended.selector);
        workers.reinstate();
        vm.warp(until);
        vm.assertFalse(workers.isEligible(rich, MODEL), "only by its own act");
        vm.prank(rich);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerReinstated(rich);
        workers.reinstate();
        vm.assertTrue(workers.isEligible(rich, MODEL));
        vm.assertEq(workers.getOffenseCount(rich), 0);
        vm.assertTrue(_contains(workers.getEligibleWorkers(MODEL), rich));
    }

    function test_resetOffenses() public {
        slash(worker, 1);
        vm.expectPartialRevert(OwnableUpgradeable.OwnableUnauthorizedAccount.selector);
        workers.resetOffenses(worker);
        vm.prank(owner);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.OffensesReset(worker, 1);
        workers.resetOffenses(worker);
        vm.assertEq(workers.getOffenseCount(worker), 0);
    }

    function test_slashedFundsGoToTheTreasury() public {
        vm.expectRevert(IWorkerRegistry.NoSlashedFunds.selector);
        workers.withdrawSlashedFunds();
        slash(worker, 1000);
        vm.etch(treasury, hex"fe");
        vm.expectRevert(IWorkerRegistry.TransferFailed.selector);
        workers.withdrawSlashedFunds();
        vm.etch(treasury, "");
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.SlashedFundsWithdrawn(treasury, MIN_STAKE / 10);
        workers.withdrawSlashedFunds();
        vm.assertEq(treasury.balance, MIN_STAKE / 10);
        vm.assertEq(workers.getSlashedFunds(), 0);
        vm.assertEq(workers.getTreasury(), treasury);
    }

    function test_noBountyWhenTheRateIsZero() public {
        vm.prank(owner);
        config.setTimeoutBountyBps(0);
        vm.prank(address(jobs));
        (uint256 amount, uint256 bounty) = workers.slashWithBounty(worker, 1000, keeper);
        vm.assertEq(amount, MIN_STAKE / 10);
        vm.assertEq(bounty, 0);
        vm.assertEq(workers.getSlashedFunds(), amount);
    }

    // -------------------------------------------------------------- capabilities

    function test_capabilities() public {
        vm.expectPartialRevert(OwnableUpgradeable.OwnableUnauthorizedAccount.selector);
        workers.registerCapability("search");
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.UnknownCapabilityBits.selector, 1));
        workers.setCapabilities(1);
        vm.startPrank(owner);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.CapabilityRegistered(0, "search");
        vm.assertEq(workers.registerCapability("search"), 0);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.CapabilityExists.selector, "search"));
        workers.registerCapability("search");
        workers.registerCapability("vision");
        vm.stopPrank();
        vm.assertEq(workers.getCapabilityCount(), 2);
        vm.assertEq(workers.getCapabilityMask("vision"), 2);
        vm.assertEq(workers.getCapabilityMask("none"), 0);
        vm.assertEq(workers.getCapabilityName(1), "vision");
        vm.assertEq(workers.getCapabilityName(2), "");
        vm.startPrank(worker);
        vm.expectEmit(address(workers));
        emit IWorkerRegistry.WorkerCapabilitiesSet(worker, 3);
        workers.setCapabilities(3);
        workers.setCapabilities(2);
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.UnknownCapabilityBits.selector, 4));
        workers.setCapabilities(4);
        vm.stopPrank();
        vm.assertEq(workers.getWorkerCapabilities(worker), 2);
    }

    function test_capabilitiesFillAWord() public {
        vm.startPrank(owner);
        for (uint256 i = 0; i < 256; ++i) {
            workers.registerCapability(vm.toString(i));
        }
        vm.expectRevert(IWorkerRegistry.CapabilityLimitReached.selector);
        workers.registerCapability("one too many");
        vm.stopPrank();
        vm.prank(worker);
        workers.setCapabilities(type(uint256).max);
    }

    // --------------------------------------------------------------------- roles

    function test_rolesAndPause() public {
        bytes memory notOwner =
            abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, address(this));
        vm.expectRevert(notOwner);
        workers.addWhitelistedModel(MODEL);
        vm.expectRevert(notOwner);
        workers.removeWhitelistedModel(MODEL);
        vm.expectRevert(notOwner);
        workers.unpause();
        vm.expectRevert(abi.encodeWithSelector(IGuarded.NotGuardianOrOwner.selector, address(this)));
        workers.pause();
        vm.assertEq(workers.guardian(), guardian);
        vm.assertEq(workers.jobRegistry(), address(jobs));
        vm.assertEq(workers.aiConfig(), address(config));

        vm.prank(guardian);
        workers.pause();
        bytes4 paused = PausableUpgradeable.EnforcedPause.selector;
        vm.startPrank(worker);
        vm.expectRevert(paused);
        workers.registerWorker("");
        vm.expectRevert(paused);
        workers.topUpStake{value: 1}();
        vm.expectRevert(paused);
        workers.addSupportedModel(MODEL);
        vm.expectRevert(paused);
        workers.rotateEncryptionKey("");
        vm.expectRevert(paused);
        workers.setCapabilities(0);
        vm.expectRevert(paused);
        workers.reinstate();
        // Every way out stays open.
        workers.removeSupportedModel(MODEL);
        workers.withdrawStake(1);
        workers.deregisterWorker();
        vm.stopPrank();
        vm.prank(owner);
        workers.unpause();
    }

    function _contains(address[] memory list, address item) private pure returns (bool) {
        for (uint256 i = 0; i < list.length; ++i) {
            if (list[i] == item) return true;
        }
        return false;
    }
}
