// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "../src/interfaces/IJobRegistryExtra.sol";
import {IAIConfig} from "../src/interfaces/IAIConfig.sol";
import {IWorkerRegistry} from "../src/interfaces/IWorkerRegistry.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {Base} from "./utils/Base.sol";

contract JobsTest is Base {
    uint256 internal sessionId;

    function setUp() public override {
        super.setUp();
        sessionId = openSession(user, worker);
    }

    // ------------------------------------------------------------------- submit

    function test_submitRecordsTheJob() public {
        vm.expectEmit(address(jobs));
        emit IJobRegistry.JobSubmitted(1, sessionId, worker);
        vm.expectEmit(address(jobs));
        emit IJobRegistryExtra.JobFunded(1, user, FEE, false, PROMPT, time() + 90);
        uint256 id = submit(sessionId);
        IJobRegistry.Job memory j = jobs.getJob(id);
        vm.assertEq(j.sessionId, sessionId);
        vm.assertEq(j.worker, worker);
        vm.assertEq(uint256(j.state), 0);
        vm.assertEq(j.escrowedFee, FEE);
        vm.assertEq(j.promptBlobHash, PROMPT);
        vm.assertEq(j.submittedAt, time());
        vm.assertEq(j.submitBlockNumber, height());
        vm.assertEq(j.deadline, time() + 90);
        vm.assertEq(j.ackTimestamp + j.completedAt + j.completionBlockNumber + j.disputeBond, 0);
        vm.assertEq(j.responseBlobHash, bytes32(0));
        vm.assertEq(jobs.getSession(sessionId).jobCount, 1);
        vm.assertEq(workers.getActiveJobCount(worker), 1);
        vm.assertEq(jobs.openJobCount(worker), 1);
        vm.assertEq(jobs.jobCount(), 1);
    }

    function test_submitRefusals() public {
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SessionNotFound.selector, 9));
        jobs.submitJob(9, PROMPT);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotSessionOwner.selector, sessionId, address(this), user));
        jobs.submitJob(sessionId, PROMPT);
        vm.startPrank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.InsufficientFee.selector, FEE, FEE - 1));
        jobs.submitJob{value: FEE - 1}(sessionId, PROMPT);
        vm.stopPrank();
        vm.prank(owner);
        config.disableModel(MODEL);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.ModelDisabled.selector, MODEL));
        jobs.submitJob{value: FEE}(sessionId, PROMPT);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotFound.selector, 1));
        jobs.getJob(1);
    }

    function test_inactivityEdges() public {
        vm.warp(time() + 1800);
        submit(sessionId);
        // A job keeps its session awake.
        vm.warp(time() + 1800);
        submit(sessionId);
        vm.warp(time() + 1801);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SessionNotActive.selector, sessionId));
        jobs.submitJob{value: FEE}(sessionId, PROMPT);
    }

    function test_submitNeedsAnEligibleWorker() public {
        vm.prank(owner);
        config.setMinWorkerStake(MIN_STAKE + 1);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.WorkerNotEligible.selector, worker, MODEL));
        jobs.submitJob{value: FEE}(sessionId, PROMPT);
    }

    function test_aFloodedWorkerIsFull() public {
        vm.prank(owner);
        config.setMaxConcurrentJobs(2);
        uint256 first = submit(sessionId);
        submit(sessionId);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.WorkerAtCapacity.selector, worker));
        jobs.submitJob{value: FEE}(sessionId, PROMPT);
        complete(first);
        submit(sessionId);
    }

    // -------------------------------------------------------- acknowledge, complete

    function test_acknowledgeEdges() public {
        uint256 id = submit(sessionId);
        uint256 deadline = time() + 90;
        vm.prank(worker2);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotJobWorker.selector, id, worker2, worker));
        jobs.acknowledgeJob(id);
        vm.warp(deadline + 1);
        vm.prank(worker);
        vm.expectRevert(
            abi.encodeWithSelector(IJobRegistry.DeadlineExceeded.selector, id, deadline, deadline + 1)
        );
        jobs.acknowledgeJob(id);
        vm.warp(deadline);
        vm.prank(worker);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.JobAcknowledged(id, worker);
        jobs.acknowledgeJob(id);
        IJobRegistry.Job memory j = jobs.getJob(id);
        vm.assertEq(uint256(j.state), 1);
        vm.assertEq(j.ackTimestamp, deadline);
        vm.assertEq(j.deadline, deadline + 120);
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 0, 1));
        jobs.acknowledgeJob(id);
    }

    function test_completeEdges() public {
        uint256 id = submit(sessionId);
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 1, 0));
        jobs.completeJob(id, RESPONSE, keccak256("c"));
        acknowledge(id);
        uint256 deadline = time() + 120;
        vm.prank(worker2);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotJobWorker.selector, id, worker2, worker));
        jobs.completeJob(id, RESPONSE, keccak256("c"));
        vm.prank(worker);
        vm.expectRevert(IJobRegistry.InvalidResponseCiphertextHash.selector);
        jobs.completeJob(id, RESPONSE, bytes32(0));
        vm.warp(deadline + 1);
        vm.prank(worker);
        vm.expectRevert(
            abi.encodeWithSelector(IJobRegistry.DeadlineExceeded.selector, id, deadline, deadline + 1)
        );
        jobs.completeJob(id, RESPONSE, keccak256("c"));
        vm.warp(deadline);
        vm.roll(2000);
        vm.prank(worker);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.JobCompleted(id, worker, RESPONSE, keccak256("c"));
        jobs.completeJob(id, RESPONSE, keccak256("c"));
        IJobRegistry.Job memory j = jobs.getJob(id);
        vm.assertEq(uint256(j.state), 2);
        vm.assertEq(j.completedAt, deadline);
        vm.assertEq(j.completionBlockNumber, 2000);
        vm.assertEq(j.responseBlobHash, RESPONSE);
        vm.assertEq(j.responseCiphertextHash, keccak256("c"));
        vm.assertEq(jobs.openJobCount(worker), 0);
        vm.assertEq(workers.getActiveJobCount(worker), 1);
    }

    // --------------------------------------------------------------------- blobs

    function oneBlob(bytes32 hash) internal {
        bytes32[] memory hashes = new bytes32[](2);
        hashes[0] = bytes32(uint256(1) << 248 | 0xff);
        hashes[1] = hash;
        vm.blobhashes(hashes);
    }

    function submitSig(uint256 key, uint256 session, uint256 index, bytes32 hash, uint256 maxFee, uint256 expiry)
        internal
        view
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "SubmitJob(uint256 sessionId,uint256 jobIndex,bytes32 promptBlobHash,uint256 maxFee,uint256 expiry)"
                ),
                session,
                index,
                hash,
                maxFee,
                expiry
            )
        );
        return signature(key, typed(structHash));
    }

    function test_userSubmitsTheBlobItCarries() public {
        oneBlob(PROMPT);
        vm.startPrank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.BlobNotFound.selector, 2));
        jobs.submitJobWithBlob{value: FEE}(sessionId, 2, FEE, time(), "");
        uint256 id = jobs.submitJobWithBlob{value: FEE + 5}(sessionId, 1, FEE, time(), "");
        vm.stopPrank();
        vm.assertEq(jobs.getJob(id).promptBlobHash, PROMPT);
        vm.assertEq(address(jobs).balance, FEE);
    }

    function test_anyKeySubmitsForTheUserOnce() public {
        oneBlob(PROMPT);
        vm.prank(user);
        jobs.deposit{value: 3 * FEE}();
        uint256 expiry = time() + 10;
        bytes memory sig = submitSig(USER_KEY, sessionId, 0, PROMPT, FEE, expiry);
        vm.startPrank(keeper);
        vm.expectRevert(IJobRegistryExtra.InvalidUserSignature.selector);
        jobs.submitJobWithBlob(sessionId, 0, FEE, expiry, sig);
        vm.expectRevert(IJobRegistryExtra.InvalidUserSignature.selector);
        jobs.submitJobWithBlob(sessionId, 1, FEE + 1, expiry, sig);
        vm.expectRevert(IJobRegistryExtra.InvalidUserSignature.selector);
        jobs.submitJobWithBlob(sessionId, 1, FEE, expiry + 1, sig);
        uint256 id = jobs.submitJobWithBlob(sessionId, 1, FEE, expiry, sig);
        vm.assertEq(jobs.prepaidBalanceOf(user), 2 * FEE);
        vm.assertEq(jobs.getJob(id).promptBlobHash, PROMPT);
        // The signature names the session's job index: it is spent.
        vm.expectRevert(IJobRegistryExtra.InvalidUserSignature.selector);
        jobs.submitJobWithBlob(sessionId, 1, FEE, expiry, sig);
        vm.stopPrank();
    }

    function test_blobSubmissionBounds() public {
        oneBlob(PROMPT);
        uint256 expiry = time() + 10;
        bytes memory sig = submitSig(USER_KEY, sessionId, 0, PROMPT, FEE - 1, expiry);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.FeeAboveMaximum.selector, FEE, FEE - 1));
        jobs.submitJobWithBlob(sessionId, 1, FEE - 1, expiry, sig);
        sig = submitSig(USER_KEY, sessionId, 0, PROMPT, FEE, expiry);
        vm.warp(expiry + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SignatureExpired.selector, expiry, expiry + 1));
        jobs.submitJobWithBlob(sessionId, 1, FEE, expiry, sig);
        vm.warp(expiry);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.InsufficientBalance.selector, user, FEE, 0));
        jobs.submitJobWithBlob(sessionId, 1, FEE, expiry, sig);
        // A stranger may pay; the refund is the user's.
        vm.deal(keeper, FEE);
        vm.prank(keeper);
        uint256 id = jobs.submitJobWithBlob{value: FEE}(sessionId, 1, FEE, expiry, sig);
        vm.warp(time() + 91);
        uint256 before = user.balance;
        jobs.claimTimeout(id);
        vm.assertEq(user.balance - before, FEE);
    }

    struct Batch {
        uint256[] sessions;
        uint256[] indexes;
        uint256[] maxFees;
        uint256[] expiries;
        bytes[] sigs;
    }

    bytes32 private constant FIRST_BLOB = bytes32(uint256(1) << 248 | 0xff);

    /// @dev Two jobs of `sessionId` and one of `other`, in the blobs 0, 1 and 1, signed by the sessions' users.
    function batch(uint256 other, uint256 otherKey) internal view returns (Batch memory b) {
        b = Batch(new uint256[](3), new uint256[](3), new uint256[](3), new uint256[](3), new bytes[](3));
        for (uint256 i = 0; i < 3; ++i) {
            b.sessions[i] = i == 2 ? other : sessionId;
            b.indexes[i] = i == 0 ? 0 : 1;
            b.maxFees[i] = FEE;
            b.expiries[i] = time() + 10;
        }
        b.sigs[0] = submitSig(USER_KEY, sessionId, 0, FIRST_BLOB, FEE, time() + 10);
        b.sigs[1] = submitSig(USER_KEY, sessionId, 1, PROMPT, FEE, time() + 10);
        b.sigs[2] = submitSig(otherKey, other, 0, PROMPT, FEE, time() + 10);
    }

    function sendBatch(Batch memory b, uint256 value) internal returns (uint256[] memory) {
        return jobs.submitJobsWithBlobs{value: value}(b.sessions, b.indexes, b.maxFees, b.expiries, b.sigs);
    }

    function test_batchOfSubmissionsSpendsEachUsersBalance() public {
        oneBlob(PROMPT);
        address user2 = vm.addr(0xb2);
        uint256 other = openSession(user2, worker2);
        Batch memory b = batch(other, 0xb2);
        vm.prank(user);
        jobs.deposit{value: 3 * FEE}();
        // The second user has not paid in: nobody's job is taken.
        vm.startPrank(keeper);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.InsufficientBalance.selector, user2, FEE, 0));
        sendBatch(b, 0);
        vm.stopPrank();
        vm.assertEq(jobs.jobCount(), 0);
        vm.deal(user2, FEE);
        vm.prank(user2);
        jobs.deposit{value: FEE}();
        vm.prank(keeper);
        uint256[] memory ids = sendBatch(b, 0);
        vm.assertEq(ids.length, 3);
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(ids[i], i + 1);
            vm.assertEq(jobs.getJob(ids[i]).sessionId, b.sessions[i]);
            vm.assertEq(jobs.getJob(ids[i]).promptBlobHash, i == 0 ? FIRST_BLOB : PROMPT);
            vm.assertEq(jobs.getJob(ids[i]).escrowedFee, FEE);
        }
        vm.assertEq(jobs.prepaidBalanceOf(user), FEE);
        vm.assertEq(jobs.prepaidBalanceOf(user2), 0);
        // Every signature names its job's index: the whole batch is spent.
        vm.startPrank(keeper);
        vm.expectRevert(IJobRegistryExtra.InvalidUserSignature.selector);
        sendBatch(b, 0);
        vm.stopPrank();
    }

    function test_batchOfSubmissionsPaidByValue() public {
        oneBlob(PROMPT);
        Batch memory b = batch(openSession(vm.addr(0xb2), worker2), 0xb2);
        vm.deal(keeper, 5 * FEE);
        vm.startPrank(keeper);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.InsufficientFee.selector, 3 * FEE, 3 * FEE - 1));
        sendBatch(b, 3 * FEE - 1);
        uint256[] memory ids = sendBatch(b, 4 * FEE);
        vm.stopPrank();
        // Each job is paid once, the excess comes back once, refunds go to the users.
        vm.assertEq(keeper.balance, 2 * FEE);
        vm.assertEq(address(jobs).balance, 3 * FEE);
        vm.warp(time() + 91);
        uint256 before = user.balance;
        for (uint256 i = 0; i < 3; ++i) {
            jobs.claimTimeout(ids[i]);
        }
        vm.assertEq(user.balance - before, 2 * FEE);
        vm.assertEq(vm.addr(0xb2).balance, FEE);
        vm.assertEq(address(jobs).balance, 0);
    }

    function test_batchOfSubmissionsBounds() public {
        oneBlob(PROMPT);
        uint256 other = openSession(vm.addr(0xb2), worker2);
        vm.deal(user, 100 * FEE);
        for (uint256 i = 1; i < 5; ++i) {
            Batch memory short = batch(other, 0xb2);
            if (i == 1) short.indexes = new uint256[](2);
            if (i == 2) short.maxFees = new uint256[](2);
            if (i == 3) short.expiries = new uint256[](4);
            if (i == 4) short.sigs = new bytes[](2);
            vm.expectRevert(IJobRegistryExtra.LengthMismatch.selector);
            sendBatch(short, 3 * FEE);
        }
        Batch memory b = batch(other, 0xb2);
        b.indexes[2] = 2;
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.BlobNotFound.selector, 2));
        sendBatch(b, 3 * FEE);
        b = batch(other, 0xb2);
        b.maxFees[1] = FEE - 1;
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.FeeAboveMaximum.selector, FEE, FEE - 1));
        sendBatch(b, 3 * FEE);
        b = batch(other, 0xb2);
        b.expiries[2] = time() - 1;
        vm.expectPartialRevert(IJobRegistry.SignatureExpired.selector);
        sendBatch(b, 3 * FEE);
        // Swapped signatures; the user's own jobs need none.
        b = batch(other, 0xb2);
        (b.sigs[0], b.sigs[1]) = (b.sigs[1], b.sigs[0]);
        vm.expectRevert(IJobRegistryExtra.InvalidUserSignature.selector);
        sendBatch(b, 3 * FEE);
        b.sigs[0] = b.sigs[1] = "";
        vm.prank(user);
        vm.assertEq(sendBatch(b, 3 * FEE).length, 3);
        // An empty batch does nothing and keeps nothing.
        Batch memory none;
        uint256 before = user.balance;
        vm.prank(user);
        vm.assertEq(sendBatch(none, FEE).length, 0);
        vm.assertEq(user.balance, before);
        vm.prank(guardian);
        jobs.pause();
        vm.expectPartialRevert(PausableUpgradeable.EnforcedPause.selector);
        sendBatch(none, 0);
    }

    function completeSig(uint256 key, uint256 id, bytes32 hash, bytes32 ciphertextHash)
        internal
        view
        returns (bytes memory)
    {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "CompleteJob(uint256 jobId,uint256 sessionId,bytes32 promptBlobHash,bytes32 responseBlobHash,bytes32 responseCiphertextHash)"
                ),
                id,
                sessionId,
                PROMPT,
                hash,
                ciphertextHash
            )
        );
        return signature(key, typed(structHash));
    }

    function test_anyKeyCompletesForTheWorker() public {
        uint256 id = submit(sessionId);
        acknowledge(id);
        oneBlob(RESPONSE);
        bytes memory sig = completeSig(WORKER_KEY, id, RESPONSE, keccak256("c"));
        vm.startPrank(keeper);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.BlobNotFound.selector, 2));
        jobs.completeJobWithBlob(id, 2, keccak256("c"), sig);
        vm.expectRevert(IJobRegistry.InvalidWorkerSignature.selector);
        jobs.completeJobWithBlob(id, 0, keccak256("c"), sig);
        vm.expectRevert(IJobRegistry.InvalidWorkerSignature.selector);
        jobs.completeJobWithBlob(id, 1, keccak256("d"), sig);
        bytes memory wrong = completeSig(WORKER2_KEY, id, RESPONSE, keccak256("c"));
        vm.expectRevert(IJobRegistry.InvalidWorkerSignature.selector);
        jobs.completeJobWithBlob(id, 1, keccak256("c"), wrong);
        jobs.completeJobWithBlob(id, 1, keccak256("c"), sig);
        vm.stopPrank();
        vm.assertEq(jobs.getJob(id).responseBlobHash, RESPONSE);
        vm.assertEq(stateOf(id), 2);
    }

    /// @dev Both kinds of blob signature, made for another chain, for another registry, for another job, or bent.
    function test_blobSignaturesAreOneUseOnly() public {
        vm.chainId(8200);
        uint256 first = submit(sessionId);
        uint256 second = submit(sessionId);
        acknowledge(first);
        acknowledge(second);
        oneBlob(RESPONSE);
        uint256 expiry = time() + 10;
        bytes memory submission = submitSig(USER_KEY, sessionId, 2, RESPONSE, FEE, expiry);
        bytes memory completion = completeSig(WORKER_KEY, first, RESPONSE, keccak256("c"));
        vm.chainId(9200);
        refuseSubmission(submission, expiry, IJobRegistryExtra.InvalidUserSignature.selector);
        refuseCompletion(first, completion, IJobRegistry.InvalidWorkerSignature.selector);
        vm.chainId(8200);
        vm.deal(keeper, FEE);
        vm.startPrank(keeper);
        jobs.submitJobWithBlob{value: FEE}(sessionId, 1, FEE, expiry, submission);
        jobs.completeJobWithBlob(first, 1, keccak256("c"), completion);
        vm.stopPrank();
    }

    function test_blobSignaturesNameRegistryAndJob() public {
        uint256 first = submit(sessionId);
        uint256 second = submit(sessionId);
        acknowledge(first);
        acknowledge(second);
        oneBlob(RESPONSE);
        uint256 expiry = time() + 10;
        bytes memory submission = submitSig(USER_KEY, sessionId, 2, RESPONSE, FEE, expiry);
        bytes memory completion = completeSig(WORKER_KEY, first, RESPONSE, keccak256("c"));
        refuseCompletion(second, completion, IJobRegistry.InvalidWorkerSignature.selector);
        // The worker's signature is no user's and the user's no worker's.
        refuseCompletion(first, submission, IJobRegistry.InvalidWorkerSignature.selector);
        refuseSubmission(completion, expiry, IJobRegistryExtra.InvalidUserSignature.selector);
        refuseSubmission(malleable(submission), expiry, IJobRegistryExtra.ECDSAInvalidSignatureS.selector);
        refuseCompletion(first, malleable(completion), IJobRegistryExtra.ECDSAInvalidSignatureS.selector);
        refuseSubmission("", expiry, IJobRegistryExtra.ECDSAInvalidSignatureLength.selector);
        // The same state at another address.
        address here = address(jobs);
        setUp();
        vm.assertNotEq(address(jobs), here);
        uint256 again = submit(sessionId);
        submit(sessionId);
        acknowledge(again);
        vm.assertEq(again, first);
        refuseSubmission(submission, expiry, IJobRegistryExtra.InvalidUserSignature.selector);
        refuseCompletion(again, completion, IJobRegistry.InvalidWorkerSignature.selector);
    }

    function refuseSubmission(bytes memory sig, uint256 expiry, bytes4 why) internal {
        vm.deal(keeper, FEE);
        vm.prank(keeper);
        vm.expectPartialRevert(why);
        jobs.submitJobWithBlob{value: FEE}(sessionId, 1, FEE, expiry, sig);
    }

    function refuseCompletion(uint256 id, bytes memory sig, bytes4 why) internal {
        vm.prank(keeper);
        vm.expectPartialRevert(why);
        jobs.completeJobWithBlob(id, 1, keccak256("c"), sig);
    }

    function test_theDomainIsTheOneWalletsSign() public view {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("LightChain JobRegistry"),
                keccak256("1"),
                block.chainid,
                address(jobs)
            )
        );
        vm.assertEq(jobs.DOMAIN_SEPARATOR(), domain);
    }

    function test_batchOfCompletions() public {
        uint256[] memory ids = new uint256[](2);
        ids[0] = submit(sessionId);
        ids[1] = submit(sessionId);
        acknowledge(ids[0]);
        acknowledge(ids[1]);
        oneBlob(RESPONSE);
        uint256[] memory indexes = new uint256[](2);
        indexes[1] = 1;
        bytes32[] memory hashes = new bytes32[](2);
        hashes[0] = keccak256("0");
        hashes[1] = keccak256("1");
        bytes[] memory sigs = new bytes[](2);
        sigs[0] = completeSig(WORKER_KEY, ids[0], bytes32(uint256(1) << 248 | 0xff), hashes[0]);
        sigs[1] = completeSig(WORKER_KEY, ids[1], RESPONSE, hashes[1]);
        uint256[] memory shorter = new uint256[](1);
        vm.expectRevert(IJobRegistryExtra.LengthMismatch.selector);
        jobs.completeJobsWithBlobs(ids, shorter, hashes, sigs);
        jobs.completeJobsWithBlobs(ids, indexes, hashes, sigs);
        vm.assertEq(stateOf(ids[0]) + stateOf(ids[1]), 4);
        // The worker itself needs no signature.
        uint256 own = submit(sessionId);
        acknowledge(own);
        vm.prank(worker);
        jobs.completeJobWithBlob(own, 1, keccak256("c"), "");
    }

    // ------------------------------------------------------------------- timeouts

    function test_missedAcknowledgement() public {
        uint256 id = submit(sessionId);
        uint256 deadline = time() + 90;
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotTimedOut.selector, id, deadline, deadline));
        jobs.claimTimeout(id);
        vm.warp(deadline + 1);
        uint256 slash = MIN_STAKE * 200 / 10_000;
        uint256 before = user.balance;
        vm.prank(keeper);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.JobTimedOut(id, worker, slash);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.KeeperBountyPaid(id, keeper, slash / 10, 0);
        vm.expectEmit(address(jobs));
        emit IJobRegistryExtra.JobRefunded(id, user, FEE);
        jobs.claimTimeout(id);
        vm.assertEq(keeper.balance, slash / 10);
        vm.assertEq(workers.getSlashedFunds(), slash - slash / 10);
        vm.assertEq(user.balance - before, FEE);
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE - slash);
        vm.assertEq(workers.getOffenseCount(worker), 1);
        vm.assertEq(stateOf(id), 3);
        vm.assertEq(reputation.getScore(worker), 4750);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 0, 3));
        jobs.claimTimeout(id);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotFound.selector, 77));
        jobs.claimTimeout(77);
    }

    function test_missedCompletion() public {
        uint256 id = submit(sessionId);
        acknowledge(id);
        vm.warp(time() + 120);
        vm.expectPartialRevert(IJobRegistry.NotTimedOut.selector);
        jobs.claimTimeout(id);
        vm.warp(time() + 1);
        jobs.claimTimeout(id);
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE - MIN_STAKE * 500 / 10_000);
        vm.assertEq(jobs.openJobCount(worker), 0);
        vm.assertEq(workers.getActiveJobCount(worker), 0);
    }

    function test_prepaidFeesReturnToTheBalance() public {
        vm.prank(user);
        jobs.deposit{value: FEE}();
        vm.prank(user);
        uint256 id = jobs.submitJobOnBehalf(user, sessionId, PROMPT);
        vm.assertEq(jobs.prepaidBalanceOf(user), 0);
        vm.warp(time() + 91);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.RefundCreditedToBalance(user, id, FEE);
        jobs.claimTimeout(id);
        vm.assertEq(jobs.prepaidBalanceOf(user), FEE);
    }

    function test_stuckJobSettlesWithoutFaultEvenWhenTheRegistryFails() public {
        uint256 id = submit(sessionId);
        uint256 availableAt = time() + 90 + 7200;
        vm.mockCallRevert(address(workers), abi.encodeWithSelector(workers.decrementActiveJobs.selector), "broken");
        vm.warp(availableAt - 1);
        vm.expectRevert("broken");
        jobs.claimTimeout(id);
        vm.expectRevert(
            abi.encodeWithSelector(
                IJobRegistry.NoFaultWindowNotReached.selector, id, availableAt, availableAt - 1
            )
        );
        jobs.settleStuckJob(id);
        vm.warp(availableAt);
        uint256 before = user.balance;
        vm.expectEmit(address(jobs));
        emit IJobRegistry.JobSettledNoFault(id, FEE);
        jobs.settleStuckJob(id);
        vm.assertEq(user.balance - before, FEE);
        vm.assertEq(workers.getWorkerStake(worker), MIN_STAKE);
        vm.assertEq(jobs.openJobCount(worker), 0);
        vm.assertEq(stateOf(id), 3);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 0, 3));
        jobs.settleStuckJob(id);
        vm.clearMockedCalls();
    }

    function test_stuckAcknowledgedJobSettlesAndFreesItsWorker() public {
        uint256 id = submit(sessionId);
        acknowledge(id);
        vm.warp(time() + 120 + 7200);
        jobs.settleStuckJob(id);
        vm.assertEq(workers.getActiveJobCount(worker), 0);
        vm.assertEq(workers.getOffenseCount(worker), 0);
    }

    // -------------------------------------------------------------------- release

    function test_releaseWindowEdges() public {
        uint256 id = submit(sessionId);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 2, 0));
        jobs.releaseJob(id);
        complete(id);
        uint256 end = time() + 3600;
        vm.warp(end);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.DisputeWindowNotElapsed.selector, id, end, end));
        jobs.releaseJob(id);
        vm.warp(end + 1);
        vm.prank(worker);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.FeeDistributed(id, FEE * 8 / 10, FEE * 15 / 100, FEE * 5 / 100);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.JobReleased(id, FEE * 8 / 10, FEE * 15 / 100, FEE * 5 / 100);
        jobs.releaseJob(id);
        vm.assertEq(reputation.getScore(worker), 5010);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, id, 2, 6));
        jobs.releaseJob(id);
    }

    function test_batchReleasesAllOrNothing() public {
        uint256[] memory ids = new uint256[](3);
        for (uint256 i = 0; i < 3; ++i) {
            ids[i] = submit(sessionId);
            complete(ids[i]);
        }
        vm.warp(time() + 3601);
        uint256[] memory twice = new uint256[](2);
        twice[0] = ids[0];
        twice[1] = ids[0];
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.JobNotInState.selector, ids[0], 2, 6));
        jobs.releaseJobs(twice);
        vm.prank(keeper);
        jobs.releaseJobs(ids);
        vm.assertEq(jobs.workerBalance(worker), 3 * (FEE * 8 / 10));
        vm.assertEq(jobs.workerBalance(keeper), 3 * (FEE / 100));
        vm.assertEq(treasury.balance, 3 * (FEE * 14 / 100));
        vm.assertEq(feePool.balance, 3 * (FEE * 5 / 100));
        vm.assertEq(workers.getActiveJobCount(worker), 0);
    }

    function test_bountyNeverExceedsTheProtocolShare() public {
        vm.startPrank(owner);
        config.setReleaseBountyBps(5000);
        vm.stopPrank();
        uint256 id = submit(sessionId);
        complete(id);
        vm.warp(time() + 3601);
        vm.prank(keeper);
        jobs.releaseJob(id);
        vm.assertEq(jobs.workerBalance(keeper), FEE * 15 / 100);
        vm.assertEq(treasury.balance, 0);
        vm.assertEq(jobs.workerBalance(worker), FEE * 8 / 10);
    }

    function test_aBrokenReputationRegistryStopsNothing() public {
        vm.mockCallRevert(address(reputation), abi.encodeWithSelector(reputation.recordCompletion.selector), "broken");
        uint256 id = submit(sessionId);
        complete(id);
        vm.warp(time() + 3601);
        jobs.releaseJob(id);
        vm.assertEq(stateOf(id), 6);
        vm.clearMockedCalls();
    }

    function test_counterCallsAreTheRegistrysAlone() public {
        bytes memory denied = abi.encodeWithSelector(IWorkerRegistry.NotAuthorized.selector, address(this));
        vm.expectRevert(denied);
        workers.incrementActiveJobs(worker, MODEL);
        vm.expectRevert(denied);
        workers.decrementActiveJobs(worker, MODEL);
        vm.expectRevert(denied);
        workers.slash(worker, 1);
        vm.expectRevert(denied);
        workers.slashWithBounty(worker, 1, address(this));
        vm.prank(address(jobs));
        vm.expectRevert(abi.encodeWithSelector(IWorkerRegistry.WorkerNotInEligibleSet.selector, keeper, MODEL));
        workers.incrementActiveJobs(keeper, MODEL);
    }

    // ---------------------------------------------------------------------- pause

    function test_pauseStopsNewJobsAndNothingElse() public {
        uint256 acked = submit(sessionId);
        acknowledge(acked);
        uint256 fresh = submit(sessionId);
        vm.prank(user);
        jobs.deposit{value: FEE}();
        vm.prank(guardian);
        jobs.pause();
        vm.startPrank(user);
        bytes4 paused = PausableUpgradeable.EnforcedPause.selector;
        vm.expectRevert(paused);
        jobs.submitJob{value: FEE}(sessionId, PROMPT);
        vm.expectRevert(paused);
        jobs.submitJobOnBehalf(user, sessionId, PROMPT);
        vm.expectRevert(paused);
        jobs.submitJobWithBlob{value: FEE}(sessionId, 0, FEE, time(), "");
        vm.expectRevert(paused);
        jobs.deposit{value: 1}();
        vm.expectRevert(paused);
        jobs.depositAndAuthorize{value: 1}(keeper);
        jobs.withdrawBalance(FEE);
        vm.stopPrank();
        vm.startPrank(worker);
        jobs.acknowledgeJob(fresh);
        jobs.completeJob(acked, RESPONSE, keccak256("c"));
        vm.warp(time() + 3601);
        jobs.claimTimeout(fresh);
        jobs.releaseJob(acked);
        jobs.withdraw();
        vm.stopPrank();
    }
}
