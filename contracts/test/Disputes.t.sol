// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "../src/interfaces/IJobRegistryExtra.sol";
import {Base} from "./utils/Base.sol";

contract DisputesTest is Base {
    bytes32 internal constant EVIDENCE = bytes32(uint256(1) << 248 | 0x33);
    uint256 internal id;

    function setUp() public override {
        super.setUp();
        id = completedJob();
        vm.deal(disputer, 100 ether);
    }

    function file(address who) internal {
        vm.prank(who);
        jobs.disputeJob{value: FEE}(id);
    }

    // -------------------------------------------------------------------- filing

    function test_filing() public {
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.UnauthorizedDisputeCaller.selector, id, address(this)));
        jobs.disputeJob(id);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotFound.selector, 99));
        jobs.disputeJob(99);
        vm.startPrank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.InsufficientDisputeBond.selector, FEE, FEE - 1));
        jobs.disputeJob{value: FEE - 1}(id);
        uint256 before = user.balance;
        vm.expectEmit(address(jobs));
        emit IJobRegistry.DisputeCreated(id, user);
        jobs.disputeJob{value: FEE + 9}(id);
        vm.assertEq(before - user.balance, FEE, "the excess returns");
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 2, 4));
        jobs.disputeJob{value: FEE}(id);
        vm.stopPrank();
        IJobRegistry.Job memory j = jobs.getJob(id);
        vm.assertEq(uint256(j.state), 4);
        vm.assertEq(j.disputeFiler, user);
        vm.assertEq(j.disputeBond, FEE);
        vm.assertEq(j.disputeCreatedAt, time());
    }

    function test_windowEdges() public {
        uint256 end = time() + 3600;
        vm.warp(end + 1);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.DisputeWindowExpired.selector, id, end, end + 1));
        jobs.disputeJob{value: FEE}(id);
        vm.warp(end);
        file(user);
    }

    function testFuzz_bondFollowsTheMultiplier(uint32 multiplier) public {
        multiplier %= 1_000_001;
        vm.prank(owner);
        config.setDisputeBondMultiplier(multiplier);
        uint256 bond = FEE * multiplier / 10_000;
        vm.deal(user, bond);
        vm.prank(user);
        jobs.disputeJob{value: bond}(id);
        vm.assertEq(jobs.getJob(id).disputeBond, bond);
        vm.assertEq(user.balance, 0);
    }

    // ------------------------------------------------------------------- verdicts

    function test_onlyTheDisputerRules() public {
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 4, 2));
        jobs.resolveDispute(id, true, EVIDENCE, 1);
        file(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotDisputer.selector, address(this), disputer));
        jobs.resolveDispute(id, true, EVIDENCE, 1);
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.InvalidSimilarityScore.selector, 10_001));
        jobs.resolveDispute(id, true, EVIDENCE, 10_001);
    }

    function test_guilty() public {
        file(user);
        uint256 before = user.balance;
        vm.prank(disputer);
        vm.expectEmit(address(jobs));
        emit IJobRegistryExtra.DisputeEvidence(id, user, EVIDENCE);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.DisputeResolved(id, true, 1234);
        jobs.resolveDispute(id, true, EVIDENCE, 1234);
        vm.assertEq(user.balance - before, 2 * FEE, "fee and bond");
        vm.assertEq(address(jobs).balance, 0);
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE - MIN_STAKE * 1500 / 10_000);
        vm.assertEq(workers.getSlashedFunds(), MIN_STAKE * 1500 / 10_000);
        vm.assertEq(workers.getActiveJobCount(worker), 0);
        vm.assertEq(reputation.getScore(worker), 4000);
        IJobRegistry.Job memory j = jobs.getJob(id);
        vm.assertEq(uint256(j.state), 5);
        vm.assertEq(j.escrowedFee + j.disputeBond, 0);
        vm.assertEq(j.reExecutionBlobHash, EVIDENCE);
        vm.assertEq(j.similarityScore, 1234);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 2, 5));
        jobs.releaseJob(id);
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 4, 5));
        jobs.resolveDispute(id, true, EVIDENCE, 1);
    }

    function test_notGuiltyPaysTheBondToTheWorkerAndReleasesAtOnce() public {
        file(user);
        vm.prank(disputer);
        vm.expectEmit(address(jobs));
        emit IJobRegistryExtra.DisputeBondPaid(id, worker, FEE);
        jobs.resolveDispute(id, false, EVIDENCE, 9999);
        vm.assertEq(jobs.workerBalance(worker), FEE);
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE);
        vm.assertEq(reputation.getScore(worker), 5050);
        vm.assertEq(workers.getActiveJobCount(worker), 1);
        vm.assertEq(jobs.getJob(id).escrowedFee, FEE);
        vm.prank(worker);
        jobs.releaseJob(id);
        vm.assertEq(jobs.workerBalance(worker), FEE + FEE * 8 / 10);
        vm.assertEq(workers.getActiveJobCount(worker), 0);
        vm.assertEq(stateOf(id), 6);
    }

    function test_aFreeJobIsReleasedAfterAnAcquittalAndOnlyThen() public {
        vm.prank(owner);
        config.setModelFee(MODEL, 0);
        id = completedJob();
        vm.prank(user);
        jobs.disputeJob(id);
        uint256 snapshot = vm.snapshotState();
        vm.prank(disputer);
        jobs.resolveDispute(id, false, EVIDENCE, 9999);
        jobs.releaseJob(id);
        vm.assertEq(stateOf(id), 6);
        vm.revertToState(snapshot);
        vm.prank(disputer);
        jobs.resolveDispute(id, true, EVIDENCE, 0);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 2, 5));
        jobs.releaseJob(id);
    }

    // -------------------------------------------------------------------- silence

    function test_silenceRulesForTheUser() public {
        file(user);
        uint256 deadline = time() + 7200;
        vm.warp(deadline);
        vm.expectRevert(
            abi.encodeWithSelector(IJobRegistry.DisputeResolutionNotTimedOut.selector, id, deadline, deadline)
        );
        jobs.claimTimeout(id);
        vm.warp(deadline + 1);
        uint256 before = user.balance;
        vm.expectEmit(address(jobs));
        emit IJobRegistry.DisputeDefaulted(id);
        jobs.claimTimeout(id);
        vm.assertEq(user.balance - before, 2 * FEE);
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE, "no slash");
        vm.assertEq(workers.getActiveJobCount(worker), 0);
        vm.assertEq(stateOf(id), 5);
        vm.assertEq(address(jobs).balance, 0);
    }

    function test_aSilentDisputerForfeitsItsOwnBond() public {
        file(disputer);
        vm.warp(time() + 7201);
        uint256 before = user.balance;
        uint256 disputersBefore = disputer.balance;
        jobs.claimTimeout(id);
        vm.assertEq(user.balance - before, FEE);
        vm.assertEq(disputer.balance, disputersBefore);
        vm.assertEq(jobs.workerBalance(worker), FEE, "the bond");
    }

    // ------------------------------------------------------------------- mismatch

    function test_mismatchConvicts() public {
        bytes memory other = "another ciphertext";
        bytes memory sig = signature(WORKER_KEY, responseDigest(id, other));
        uint256 before = user.balance;
        vm.prank(keeper);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.DisputeResolved(id, true, 0);
        jobs.disputeResponseMismatch(id, other, sig);
        vm.assertEq(user.balance - before, FEE);
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE - MIN_STAKE * 1500 / 10_000);
        vm.assertEq(workers.getActiveJobCount(worker), 0);
        vm.assertEq(stateOf(id), 5);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 2, 5));
        jobs.disputeResponseMismatch(id, other, sig);
    }

    function test_mismatchTakesTheRecoveryIdsWorkersSignWith() public {
        bytes memory other = "another ciphertext";
        bytes memory sig = signature(WORKER_KEY, responseDigest(id, other));
        sig[64] = bytes1(uint8(sig[64]) - 27);
        jobs.disputeResponseMismatch(id, other, sig);
        vm.assertEq(stateOf(id), 5);
    }

    function test_mismatchRefusals() public {
        bytes memory same = "ciphertext";
        bytes memory sig = signature(WORKER_KEY, responseDigest(id, same));
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NoBlobMismatch.selector, id));
        jobs.disputeResponseMismatch(id, same, sig);
        bytes memory other = "other";
        sig = signature(WORKER2_KEY, responseDigest(id, other));
        vm.expectRevert(IJobRegistry.InvalidWorkerSignature.selector);
        jobs.disputeResponseMismatch(id, other, sig);
        // Another job's evidence.
        uint256 second = completedJob();
        sig = signature(WORKER_KEY, responseDigest(second, other));
        vm.expectRevert(IJobRegistry.InvalidWorkerSignature.selector);
        jobs.disputeResponseMismatch(id, other, sig);
        sig = malleable(signature(WORKER_KEY, responseDigest(id, other)));
        vm.expectPartialRevert(IJobRegistryExtra.ECDSAInvalidSignatureS.selector);
        jobs.disputeResponseMismatch(id, other, sig);
        vm.expectPartialRevert(IJobRegistryExtra.ECDSAInvalidSignatureLength.selector);
        jobs.disputeResponseMismatch(id, other, "");
        // Nothing was completed yet.
        uint256 open = submit(openSession(user, worker));
        sig = signature(WORKER_KEY, responseDigest(open, other));
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, open, 2, 0));
        jobs.disputeResponseMismatch(open, other, sig);
    }

    function test_mismatchOfAnotherChainProvesNothing() public {
        vm.chainId(8200);
        bytes memory sig = signature(WORKER_KEY, responseDigest(id, "other"));
        vm.chainId(9200);
        vm.expectRevert(IJobRegistry.InvalidWorkerSignature.selector);
        jobs.disputeResponseMismatch(id, "other", sig);
        vm.chainId(8200);
        jobs.disputeResponseMismatch(id, "other", sig);
        vm.assertEq(stateOf(id), 5);
    }

    function test_mismatchDuringADisputeReturnsTheBond() public {
        file(user);
        bytes memory other = "other";
        bytes memory sig = signature(WORKER_KEY, responseDigest(id, other));
        uint256 before = user.balance;
        jobs.disputeResponseMismatch(id, other, sig);
        vm.assertEq(user.balance - before, 2 * FEE);
        vm.assertEq(address(jobs).balance, 0);
    }

    /// @dev The vector of the live wire format, section 6.1.
    function test_liveDigestVector() public {
        vm.chainId(48221);
        bytes32 inner = keccak256(
            abi.encode(
                block.chainid,
                0x9A9f2CCfdE556A7E9Ff0848998Aa4a0CFD8863AE,
                uint256(141),
                uint256(7),
                bytes(hex"deadbeef")
            )
        );
        vm.assertEq(inner, 0xe44b43aaf76ab55c4361fe64889e07cbdd3a5fe3f8d17ac0ca197492698f4d4e);
    }
}
