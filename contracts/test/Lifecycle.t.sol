// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {Base} from "./utils/Base.sol";

/// @dev The way of one job from session to payment, at any fee.
contract LifecycleTest is Base {
    function testFuzz_completedJobPaysEveryShareToTheWei(uint96 fee, uint96 excess) public {
        fee = uint96(uint256(fee) % 1e27);
        vm.prank(owner);
        config.setModelFee(MODEL, fee);
        vm.deal(user, uint256(fee) + excess);
        uint256 sessionId = openSession(user, worker);

        vm.prank(user);
        uint256 jobId = jobs.submitJob{value: uint256(fee) + excess}(sessionId, PROMPT);
        vm.assertEq(user.balance, excess, "excess returned");
        vm.assertEq(address(jobs).balance, fee);
        vm.assertEq(jobs.getJob(jobId).deadline, time() + 90);

        vm.warp(time() + 5);
        acknowledge(jobId);
        vm.assertEq(jobs.getJob(jobId).deadline, time() + 120);
        vm.prank(worker);
        jobs.completeJob(jobId, RESPONSE, keccak256("ciphertext"));

        vm.warp(time() + 3601);
        vm.prank(keeper);
        jobs.releaseJob(jobId);

        uint256 workerShare = uint256(fee) * 8000 / 10_000;
        uint256 poolShare = uint256(fee) * 500 / 10_000;
        uint256 bounty = uint256(fee) * 100 / 10_000;
        vm.assertEq(jobs.workerBalance(worker), workerShare);
        vm.assertEq(jobs.workerBalance(keeper), bounty);
        vm.assertEq(feePool.balance, poolShare);
        vm.assertEq(treasury.balance, fee - workerShare - poolShare - bounty, "the remainder is the protocol's");
        vm.assertEq(address(jobs).balance, workerShare + bounty);
        vm.assertEq(stateOf(jobId), 6);
        vm.assertEq(jobs.getJob(jobId).escrowedFee, 0);
        vm.assertEq(workers.getActiveJobCount(worker), 0);

        if (workerShare != 0) {
            uint256 before = worker.balance;
            vm.prank(worker);
            jobs.withdraw();
            vm.assertEq(worker.balance - before, workerShare);
        }
    }

    /// @dev Any split and any bounty: worker and pool are rounded down, the protocol has the rest, the bounty is its.
    function testFuzz_anySplitAddsUp(uint96 fee, uint16 a, uint16 b, uint16 bountyBps, bool byKeeper) public {
        fee = uint96(uint256(fee) % 1e27);
        uint256 workerBps = a % 10_001;
        uint256 poolBps = b % (10_001 - workerBps);
        vm.startPrank(owner);
        config.setModelFee(MODEL, fee);
        config.setFeeDistribution(workerBps, 10_000 - workerBps - poolBps, poolBps);
        config.setReleaseBountyBps(bountyBps % 10_001);
        vm.stopPrank();
        vm.deal(user, fee);
        uint256 jobId = completedJob();
        vm.warp(time() + 3601);
        vm.prank(byKeeper ? keeper : worker);
        jobs.releaseJob(jobId);
        uint256 workerShare = uint256(fee) * workerBps / 10_000;
        uint256 poolShare = uint256(fee) * poolBps / 10_000;
        uint256 rest = fee - workerShare - poolShare;
        uint256 bounty = byKeeper ? uint256(fee) * (bountyBps % 10_001) / 10_000 : 0;
        if (bounty > rest) bounty = rest;
        vm.assertEq(jobs.workerBalance(worker), workerShare, "worker");
        vm.assertEq(jobs.workerBalance(keeper), bounty, "keeper");
        vm.assertEq(feePool.balance, poolShare, "pool");
        vm.assertEq(treasury.balance, rest - bounty, "protocol");
        vm.assertEq(address(jobs).balance, workerShare + bounty, "what is left is owed");
    }

    /// @dev The last second belongs to whoever the window is for, the next one to everybody else.
    function testFuzz_everyWindowEndsToTheSecond(uint32 ack, uint32 completion, uint32 window, uint32 resolution)
        public
    {
        setTimes(1 + ack % 1 days, 1 + completion % 1 days, 1 + window % 30 days, 1 + resolution % 30 days);
        uint256 session = openSession(user, worker);
        uint256 late = submit(session);
        uint256 id = submit(session);
        uint256 at = time() + 1 + ack % 1 days;
        vm.warp(at);
        vm.expectPartialRevert(IJobRegistry.NotTimedOut.selector);
        jobs.claimTimeout(late);
        acknowledge(id);
        vm.warp(at + 1);
        vm.prank(worker);
        vm.expectPartialRevert(IJobRegistry.DeadlineExceeded.selector);
        jobs.acknowledgeJob(late);
        jobs.claimTimeout(late);

        at += 1 + completion % 1 days;
        vm.warp(at);
        vm.expectPartialRevert(IJobRegistry.NotTimedOut.selector);
        jobs.claimTimeout(id);
        vm.prank(worker);
        jobs.completeJob(id, RESPONSE, keccak256("ciphertext"));

        at += 1 + window % 30 days;
        vm.warp(at);
        vm.expectPartialRevert(IJobRegistry.DisputeWindowNotElapsed.selector);
        jobs.releaseJob(id);
        uint256 snapshot = vm.snapshotState();
        vm.warp(at + 1);
        vm.prank(user);
        vm.expectPartialRevert(IJobRegistry.DisputeWindowExpired.selector);
        jobs.disputeJob{value: FEE}(id);
        jobs.releaseJob(id);
        vm.revertToState(snapshot);
        vm.warp(at);
        vm.prank(user);
        jobs.disputeJob{value: FEE}(id);

        at += 1 + resolution % 30 days;
        vm.warp(at);
        vm.expectPartialRevert(IJobRegistry.DisputeResolutionNotTimedOut.selector);
        jobs.claimTimeout(id);
        vm.warp(at + 1);
        jobs.claimTimeout(id);
        vm.assertEq(address(jobs).balance, 0);
    }

    function setTimes(uint256 ack, uint256 completion, uint256 window, uint256 resolution) internal {
        vm.startPrank(owner);
        config.setMinAckTimeout(1);
        config.setMinDisputeWindow(1);
        config.setMinResolutionTimeout(1);
        config.setBlobRetentionPeriod(60 days);
        config.setAckTimeout(ack);
        config.setCompletionTimeout(completion);
        config.setDisputeWindow(window);
        config.setResolutionTimeout(resolution);
        vm.stopPrank();
    }

    function test_workerReleasingItsOwnJobEarnsNoBounty() public {
        uint256 jobId = completedJob();
        vm.warp(time() + 3601);
        vm.prank(worker);
        jobs.releaseJob(jobId);
        vm.assertEq(jobs.workerBalance(worker), FEE * 8 / 10);
        vm.assertEq(treasury.balance, FEE * 15 / 100);
    }
}
