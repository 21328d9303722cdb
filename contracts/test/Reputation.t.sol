// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IReputationRegistry} from "../src/interfaces/IReputationRegistry.sol";
import {ICanaryLedger} from "../src/interfaces/ICanaryLedger.sol";
import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {Base} from "./utils/Base.sol";

contract ReputationTest is Base {
    function test_scoresMove() public {
        vm.assertEq(reputation.getScore(worker), 5000);
        vm.assertFalse(reputation.getReputation(worker).initialized);
        vm.assertEq(reputation.MAX_SCORE(), 10_000);
        vm.assertEq(reputation.START_SCORE(), 5000);
        vm.assertEq(reputation.jobRegistry(), address(jobs));
        vm.startPrank(address(jobs));
        vm.expectEmit(address(reputation));
        emit IReputationRegistry.ReputationUpdated(worker, 5010, 0);
        reputation.recordCompletion(worker);
        vm.expectEmit(address(reputation));
        emit IReputationRegistry.ReputationUpdated(worker, 5060, 1);
        reputation.recordDisputeWin(worker);
        vm.expectEmit(address(reputation));
        emit IReputationRegistry.ReputationUpdated(worker, 4810, 2);
        reputation.recordTimeout(worker);
        vm.expectEmit(address(reputation));
        emit IReputationRegistry.ReputationUpdated(worker, 3810, 3);
        reputation.recordDisputeLoss(worker);
        vm.stopPrank();
        IReputationRegistry.WorkerReputation memory r = reputation.getReputation(worker);
        vm.assertEq(r.score, 3810);
        vm.assertEq(r.completions, 1);
        vm.assertEq(r.timeouts, 1);
        vm.assertEq(r.disputesLost, 1);
        vm.assertTrue(r.initialized);
    }

    function testFuzz_scoresStayInBounds(uint64[4] memory deltas, uint8[32] memory what) public {
        for (uint256 i = 0; i < 4; ++i) {
            deltas[i] %= 10_001;
        }
        vm.prank(owner);
        reputation.setParams(deltas[0], deltas[1], deltas[2], deltas[3]);
        vm.startPrank(address(jobs));
        for (uint256 i = 0; i < what.length; ++i) {
            uint256 before = reputation.getScore(worker);
            uint256 kind = what[i] % 4;
            if (kind == 0) reputation.recordCompletion(worker);
            else if (kind == 1) reputation.recordDisputeWin(worker);
            else if (kind == 2) reputation.recordTimeout(worker);
            else reputation.recordDisputeLoss(worker);
            uint256 score = reputation.getScore(worker);
            vm.assertTrue(score >= 100 && score <= 10_000, "bounds");
            vm.assertTrue(kind < 2 ? score >= before : score <= before, "direction");
        }
        vm.stopPrank();
    }

    function test_onlyJobRegistryAndOwner() public {
        bytes memory denied = abi.encodeWithSelector(IReputationRegistry.NotAuthorized.selector, address(this));
        vm.expectRevert(denied);
        reputation.recordCompletion(worker);
        vm.expectRevert(denied);
        reputation.recordDisputeWin(worker);
        vm.expectRevert(denied);
        reputation.recordTimeout(worker);
        vm.expectRevert(denied);
        reputation.recordDisputeLoss(worker);
        vm.expectPartialRevert(OwnableUpgradeable.OwnableUnauthorizedAccount.selector);
        reputation.setParams(1, 2, 3, 4);
        vm.startPrank(owner);
        for (uint256 i = 0; i < 4; ++i) {
            uint64[4] memory p = [uint64(1), 2, 3, 4];
            p[i] = 10_001;
            vm.expectRevert(IReputationRegistry.InvalidParam.selector);
            reputation.setParams(p[0], p[1], p[2], p[3]);
        }
        vm.expectEmit(address(reputation));
        emit IReputationRegistry.ReputationParamsUpdated(1, 2, 3, 4);
        reputation.setParams(1, 2, 3, 4);
        vm.stopPrank();
    }
}

contract CanaryTest is Base {
    bytes32 internal constant SEED = keccak256("seed");

    function commit(uint256 epoch) internal {
        bytes32 root = ledger.rootOf(epoch, SEED);
        vm.prank(disputer);
        ledger.commit(epoch, root);
    }

    function test_commitThenReveal() public {
        bytes32 root = keccak256(abi.encode(keccak256("lcai canary v1"), uint256(3), SEED));
        vm.prank(disputer);
        vm.expectEmit(address(ledger));
        emit ICanaryLedger.CanaryCommitted(3, root);
        ledger.commit(3, root);
        vm.assertEq(ledger.getEpoch(3).committedAt, time());
        vm.warp(time() + 1);
        uint256[] memory ids = new uint256[](1);
        ids[0] = submit(openSession(user, worker));
        vm.startPrank(disputer);
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.WrongSeed.selector, 3));
        ledger.reveal(3, keccak256("another"), ids);
        vm.expectEmit(address(ledger));
        emit ICanaryLedger.CanaryRevealed(3, SEED, ids);
        ledger.reveal(3, SEED, ids);
        vm.assertTrue(ledger.isCanary(ids[0]));
        vm.assertFalse(ledger.isCanary(99));
        vm.assertEq(ledger.getEpoch(3).seed, SEED);
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.AlreadyRevealed.selector, 3));
        ledger.reveal(3, SEED, ids);
        vm.stopPrank();
        commit(4);
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.CanaryOlderThanCommitment.selector, ids[0]));
        ledger.reveal(4, SEED, ids);
    }

    function test_aJobIsOneEpochsCanary() public {
        commit(0);
        commit(1);
        vm.warp(time() + 1);
        uint256[] memory ids = new uint256[](1);
        ids[0] = submit(openSession(user, worker));
        vm.startPrank(disputer);
        ledger.reveal(0, SEED, ids);
        vm.assertTrue(ledger.isCanary(ids[0]), "epoch zero counts");
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.CanaryRevealedTwice.selector, ids[0]));
        ledger.reveal(1, SEED, ids);
        vm.stopPrank();
    }

    function test_refusals() public {
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.NotDisputer.selector, address(this), disputer));
        ledger.commit(1, SEED);
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.NotDisputer.selector, address(this), disputer));
        ledger.reveal(1, SEED, new uint256[](0));
        vm.startPrank(disputer);
        vm.expectRevert(ICanaryLedger.InvalidRoot.selector);
        ledger.commit(1, 0);
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.NotCommitted.selector, 1));
        ledger.reveal(1, SEED, new uint256[](0));
        ledger.commit(1, ledger.rootOf(1, SEED));
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.AlreadyCommitted.selector, 1));
        ledger.commit(1, SEED);
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.TooManyJobs.selector, 257, 256));
        ledger.reveal(1, SEED, new uint256[](257));
        // Of the same second as the commitment: cannot be told from an older one.
        vm.stopPrank();
        uint256[] memory ids = new uint256[](1);
        ids[0] = submit(openSession(user, worker));
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(ICanaryLedger.CanaryOlderThanCommitment.selector, ids[0]));
        ledger.reveal(1, SEED, ids);
        vm.assertEq(ledger.jobRegistry(), address(jobs));
        vm.assertEq(ledger.aiConfig(), address(config));
        vm.assertEq(ledger.MAX_JOBS(), 256);
    }
}
