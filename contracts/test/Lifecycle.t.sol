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

    function test_workerReleasingItsOwnJobEarnsNoBounty() public {
        uint256 jobId = completedJob();
        vm.warp(time() + 3601);
        vm.prank(worker);
        jobs.releaseJob(jobId);
        vm.assertEq(jobs.workerBalance(worker), FEE * 8 / 10);
        vm.assertEq(treasury.balance, FEE * 15 / 100);
    }
}
