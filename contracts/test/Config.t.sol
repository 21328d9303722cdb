// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IAIConfig} from "../src/interfaces/IAIConfig.sol";
import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {Base} from "./utils/Base.sol";

contract ConfigTest is Base {
    function bounds(string memory name, uint256 value, uint256 min, uint256 max) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IAIConfig.ParameterOutOfBounds.selector, name, value, min, max);
    }

    /// @dev Tries a setter as a stranger, one beyond each bound, and at each bound, where the getter must follow.
    function check(bytes4 set, bytes4 get, string memory name, uint256 min, uint256 max) internal {
        vm.expectRevert(
            abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, address(this))
        );
        send(set, min);
        vm.startPrank(owner);
        if (min != 0) {
            vm.expectRevert(bounds(name, min - 1, min, max));
            send(set, min - 1);
        }
        vm.expectRevert(bounds(name, max + 1, min, max));
        send(set, max + 1);
        vm.expectRevert(bounds(name, type(uint256).max, min, max));
        send(set, type(uint256).max);
        send(set, max);
        vm.assertEq(read(get), max, name);
        send(set, min);
        vm.assertEq(read(get), min, name);
        vm.stopPrank();
    }

    function send(bytes4 set, uint256 value) internal {
        (bool ok, bytes memory out) = address(config).call(abi.encodeWithSelector(set, value));
        if (!ok) {
            assembly {
                revert(add(out, 32), mload(out))
            }
        }
    }

    function read(bytes4 get) internal view returns (uint256) {
        (bool ok, bytes memory out) = address(config).staticcall(abi.encodeWithSelector(get));
        vm.assertTrue(ok);
        return abi.decode(out, (uint256));
    }

    function test_defaults() public view {
        vm.assertEq(config.getAckTimeout(), 90);
        vm.assertEq(config.getCompletionTimeout(), 120);
        vm.assertEq(config.getDisputeWindow(), 3600);
        vm.assertEq(config.getResolutionTimeout(), 7200);
        vm.assertEq(config.getSessionInactivityTimeout(), 1800);
        vm.assertEq(config.getBlobRetentionPeriod(), 1_555_200);
        vm.assertEq(config.getWorkerFeeBps(), 8000);
        vm.assertEq(config.getProtocolFeeBps(), 1500);
        vm.assertEq(config.getFeePoolBps(), 500);
        vm.assertEq(config.getTimeoutSlashBps(), 200);
        vm.assertEq(config.getCompletionTimeoutSlashBps(), 500);
        vm.assertEq(config.getDisputeSlashBps(), 1500);
        vm.assertEq(config.getMaxSlashBps(), 5000);
        vm.assertEq(config.getMinWorkerStake(), 5000 ether);
        vm.assertEq(config.getSuspensionThreshold(), 3);
        vm.assertEq(config.getSuspensionCooldown(), 7 days);
        vm.assertEq(config.getDisputeBondMultiplier(), 10_000);
        vm.assertEq(config.getMaxConcurrentJobs(), 16);
        vm.assertEq(config.getMaxReassignments(), 3);
        vm.assertEq(config.getClaimWindowBlocks(), 10);
        vm.assertEq(config.getTimeoutBountyBps(), 1000);
        vm.assertEq(config.getReleaseBountyBps(), 100);
        vm.assertEq(config.getSamplingRateBps(), 100);
        vm.assertEq(config.getSimilarityThreshold(), 8500);
        vm.assertEq(config.getCanarySimilarityThreshold(), 9000);
        vm.assertEq(config.getDispatcherAddress(), dispatcher);
        vm.assertEq(config.getDisputerAddress(), disputer);
        vm.assertEq(config.getSessionManagerAddress(), address(manager));
        vm.assertTrue(config.getSortitionEnabled());
    }

    function test_times() public {
        check(config.setAckTimeout.selector, config.getAckTimeout.selector, "ackTimeout", 10, 1 days);
        check(config.setCompletionTimeout.selector, config.getCompletionTimeout.selector, "completionTimeout", 1, 1 days);
        check(
            config.setSessionInactivityTimeout.selector,
            config.getSessionInactivityTimeout.selector,
            "sessionInactivityTimeout",
            1,
            365 days
        );
        vm.prank(owner);
        config.setBlobRetentionPeriod(365 days);
        check(config.setDisputeWindow.selector, config.getDisputeWindow.selector, "disputeWindow", 600, 30 days);
        check(
            config.setResolutionTimeout.selector, config.getResolutionTimeout.selector, "resolutionTimeout", 600, 30 days
        );
        check(config.setMinAckTimeout.selector, config.getMinAckTimeout.selector, "minAckTimeout", 1, 10);
        check(config.setMinDisputeWindow.selector, config.getMinDisputeWindow.selector, "minDisputeWindow", 1, 600);
        check(
            config.setMinResolutionTimeout.selector,
            config.getMinResolutionTimeout.selector,
            "minResolutionTimeout",
            1,
            600
        );
        // A devnet's seconds.
        vm.startPrank(owner);
        config.setAckTimeout(1);
        config.setDisputeWindow(1);
        config.setResolutionTimeout(1);
        vm.stopPrank();
    }

    function test_rates() public {
        check(config.setTimeoutSlashBps.selector, config.getTimeoutSlashBps.selector, "timeoutSlashBps", 0, 10_000);
        check(
            config.setCompletionTimeoutSlashBps.selector,
            config.getCompletionTimeoutSlashBps.selector,
            "completionTimeoutSlashBps",
            0,
            10_000
        );
        check(config.setDisputeSlashBps.selector, config.getDisputeSlashBps.selector, "disputeSlashBps", 0, 10_000);
        check(config.setMaxSlashBps.selector, config.getMaxSlashBps.selector, "maxSlashBps", 0, 10_000);
        check(config.setTimeoutBountyBps.selector, config.getTimeoutBountyBps.selector, "timeoutBountyBps", 0, 10_000);
        check(config.setReleaseBountyBps.selector, config.getReleaseBountyBps.selector, "releaseBountyBps", 0, 10_000);
        check(config.setSamplingRateBps.selector, config.getSamplingRateBps.selector, "samplingRateBps", 0, 10_000);
        check(
            config.setSimilarityThreshold.selector, config.getSimilarityThreshold.selector, "similarityThreshold", 0, 10_000
        );
        check(
            config.setCanarySimilarityThreshold.selector,
            config.getCanarySimilarityThreshold.selector,
            "canarySimilarityThreshold",
            0,
            10_000
        );
        check(
            config.setDisputeBondMultiplier.selector,
            config.getDisputeBondMultiplier.selector,
            "disputeBondMultiplier",
            0,
            1_000_000
        );
    }

    function test_limits() public {
        check(config.setMinWorkerStake.selector, config.getMinWorkerStake.selector, "minWorkerStake", 1, 1e27);
        check(config.setSuspensionThreshold.selector, config.getSuspensionThreshold.selector, "suspensionThreshold", 1, 1000);
        check(
            config.setSuspensionCooldown.selector, config.getSuspensionCooldown.selector, "suspensionCooldown", 1, 365 days
        );
        check(config.setMaxReassignments.selector, config.getMaxReassignments.selector, "maxReassignments", 0, 16);
        check(
            config.setMaxConcurrentJobs.selector, config.getMaxConcurrentJobs.selector, "maxConcurrentJobs", 1, 65_535
        );
        check(config.setClaimWindowBlocks.selector, config.getClaimWindowBlocks.selector, "claimWindowBlocks", 1, 4096);
    }

    function test_retentionCoversDisputes() public {
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(IAIConfig.RetentionInvariantViolation.selector, 10_799, 10_800));
        config.setBlobRetentionPeriod(10_799);
        config.setBlobRetentionPeriod(10_800);
        vm.expectRevert(abi.encodeWithSelector(IAIConfig.RetentionInvariantViolation.selector, 10_800, 10_801));
        config.setDisputeWindow(3601);
        vm.expectRevert(abi.encodeWithSelector(IAIConfig.RetentionInvariantViolation.selector, 10_800, 10_801));
        config.setResolutionTimeout(7201);
        vm.expectRevert(bounds("blobRetentionPeriod", 0, 1, 3650 days));
        config.setBlobRetentionPeriod(0);
        vm.expectEmit(address(config));
        emit IAIConfig.DisputeParamsUpdated(10_000, 3599, 7200);
        config.setDisputeWindow(3599);
        vm.stopPrank();
    }

    function testFuzz_splitMustAddUp(uint256 a, uint256 b, uint256 c) public {
        a %= 10_001;
        b %= 10_001;
        c %= 10_001;
        vm.prank(owner);
        if (a + b + c != 10_000) {
            vm.expectRevert(abi.encodeWithSelector(IAIConfig.FeeInvariantViolation.selector, a + b + c, 10_000));
            config.setFeeDistribution(a, b, c);
            c = a <= 10_000 && b <= 10_000 - a ? 10_000 - a - b : 0;
            if (a + b + c != 10_000) return;
            vm.prank(owner);
        }
        config.setFeeDistribution(a, b, c);
        vm.assertEq(config.getWorkerFeeBps() + config.getProtocolFeeBps() + config.getFeePoolBps(), 10_000);
        vm.assertEq(config.getFeePoolBps(), c);
    }

    function test_splitCannotWrap() public {
        vm.prank(owner);
        vm.expectPartialRevert(IAIConfig.ParameterOutOfBounds.selector);
        config.setFeeDistribution(type(uint256).max, 10_001, 0);
    }

    function test_models() public {
        bytes32 id = keccak256("gpt-oss:20b");
        bytes memory unknown = abi.encodeWithSelector(IAIConfig.ModelNotConfigured.selector, id);
        vm.expectRevert(unknown);
        config.calculateJobFee(id);
        vm.assertEq(config.getModelFee(id), 0);
        vm.assertFalse(config.isModelEnabled(id));
        vm.startPrank(owner);
        vm.expectRevert(unknown);
        config.enableModel(id);
        vm.expectRevert(unknown);
        config.disableModel(id);
        vm.expectRevert(unknown);
        config.setModelFee(id, 1);
        vm.expectRevert(unknown);
        config.setModelMaxOutputTokens(id, 1);
        vm.expectRevert(bounds("modelFee", 1e27 + 1, 0, 1e27));
        config.registerModel(id, 1e27 + 1, 1);
        vm.expectRevert(bounds("maxOutputTokens", 0, 1, type(uint64).max));
        config.registerModel(id, 1, 0);
        vm.expectEmit(address(config));
        emit IAIConfig.ModelRegistered(id, 7, 8);
        config.registerModel(id, 7, 8);
        vm.expectRevert(abi.encodeWithSelector(IAIConfig.ModelAlreadyRegistered.selector, id));
        config.registerModel(id, 7, 8);
        vm.assertEq(config.calculateJobFee(id), 7);
        vm.assertEq(config.getModelMaxOutputTokens(id), 8);
        vm.assertTrue(config.isModelEnabled(id));
        vm.expectRevert(abi.encodeWithSelector(IAIConfig.ModelAlreadyEnabled.selector, id));
        config.enableModel(id);
        vm.expectEmit(address(config));
        emit IAIConfig.ModelDisabled(id);
        config.disableModel(id);
        vm.assertFalse(config.isModelEnabled(id));
        vm.expectEmit(address(config));
        emit IAIConfig.ModelEnabled(id);
        config.enableModel(id);
        vm.expectEmit(address(config));
        emit IAIConfig.ModelConfigUpdated(id, 9, 8);
        config.setModelFee(id, 9);
        vm.expectEmit(address(config));
        emit IAIConfig.ModelConfigUpdated(id, 9, 10);
        config.setModelMaxOutputTokens(id, 10);
        vm.stopPrank();
        vm.assertEq(config.getModelFee(id), 9);
        bytes memory denied =
            abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, address(this));
        vm.expectRevert(denied);
        config.registerModel(id, 1, 1);
        vm.expectRevert(denied);
        config.enableModel(id);
        vm.expectRevert(denied);
        config.disableModel(id);
        vm.expectRevert(denied);
        config.setModelFee(id, 1);
        vm.expectRevert(denied);
        config.setModelMaxOutputTokens(id, 1);
        vm.expectRevert(denied);
        config.setFeeDistribution(1, 1, 1);
        vm.expectRevert(denied);
        config.setBlobRetentionPeriod(1);
    }

    function test_addresses() public {
        bytes memory denied =
            abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, address(this));
        vm.expectRevert(denied);
        config.setDispatcherAddress(address(1));
        vm.expectRevert(denied);
        config.setDisputerAddress(address(1));
        vm.expectRevert(denied);
        config.setSessionManagerAddress(address(1));
        vm.expectRevert(denied);
        config.setSortitionEnabled(false);
        vm.startPrank(owner);
        vm.expectRevert(IAIConfig.ZeroAddress.selector);
        config.setDisputerAddress(address(0));
        vm.expectRevert(IAIConfig.ZeroAddress.selector);
        config.setSessionManagerAddress(address(0));
        vm.expectEmit(address(config));
        emit IAIConfig.DispatcherAddressUpdated(address(0));
        config.setDispatcherAddress(address(0));
        vm.expectEmit(address(config));
        emit IAIConfig.DisputerAddressUpdated(address(3));
        config.setDisputerAddress(address(3));
        vm.expectEmit(address(config));
        emit IAIConfig.SessionManagerAddressUpdated(address(4));
        config.setSessionManagerAddress(address(4));
        vm.expectEmit(address(config));
        emit IAIConfig.SortitionEnabledUpdated(false);
        config.setSortitionEnabled(false);
        vm.stopPrank();
        vm.assertEq(config.getDisputerAddress(), address(3));
    }

    function test_events() public {
        vm.startPrank(owner);
        vm.expectEmit(address(config));
        emit IAIConfig.SlashingParamsUpdated(1, 500, 1500);
        config.setTimeoutSlashBps(1);
        vm.expectEmit(address(config));
        emit IAIConfig.KeeperParamsUpdated(1000, 3);
        config.setReleaseBountyBps(3);
        vm.expectEmit(address(config));
        emit IAIConfig.KeeperParamsUpdated(4, 3);
        config.setTimeoutBountyBps(4);
        vm.expectEmit(address(config));
        emit IAIConfig.SuspensionParamsUpdated(5, 7 days);
        config.setSuspensionThreshold(5);
        vm.expectEmit(address(config));
        emit IAIConfig.SuspensionParamsUpdated(5, 6);
        config.setSuspensionCooldown(6);
        vm.expectEmit(address(config));
        emit IAIConfig.InfraParamsUpdated("ackTimeout", 11);
        config.setAckTimeout(11);
        vm.expectEmit(address(config));
        emit IAIConfig.MinWorkerStakeUpdated(12);
        config.setMinWorkerStake(12);
        vm.expectEmit(address(config));
        emit IAIConfig.MaxConcurrentJobsUpdated(13);
        config.setMaxConcurrentJobs(13);
        vm.expectEmit(address(config));
        emit IAIConfig.ClaimWindowBlocksUpdated(14);
        config.setClaimWindowBlocks(14);
        vm.expectEmit(address(config));
        emit IAIConfig.FeeDistributionUpdated(1, 2, 9997);
        config.setFeeDistribution(1, 2, 9997);
        vm.stopPrank();
    }
}
