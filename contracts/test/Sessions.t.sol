// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "../src/interfaces/IJobRegistryExtra.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {Base} from "./utils/Base.sol";

contract SessionsTest is Base {
    bytes internal ew = wrappedKey(1);
    bytes internal ed = wrappedKey(2);
    uint256 internal expiry;

    function setUp() public override {
        super.setUp();
        expiry = time() + 120;
    }

    function good() internal view returns (bytes memory) {
        return authorization(DISPATCHER_KEY, user, worker, ew, ed, jobs.nonce(user), expiry);
    }

    function create(bytes memory sig) internal returns (uint256) {
        vm.prank(user);
        return jobs.createSession(MODEL, worker, ew, ed, sig, expiry);
    }

    function test_createSessionStoresWhatWasSigned() public {
        bytes memory sig = good();
        vm.expectEmit(address(jobs));
        emit IJobRegistry.SessionCreated(1, user, MODEL, worker, ew, ed);
        uint256 id = create(sig);
        IJobRegistry.Session memory x = jobs.getSession(id);
        vm.assertEq(x.user, user);
        vm.assertEq(x.modelId, MODEL);
        vm.assertEq(x.worker, worker);
        vm.assertEq(uint256(x.status), 0);
        vm.assertEq(x.encWorkerKey, ew);
        vm.assertEq(x.encDisputerKey, ed);
        vm.assertEq(x.jobCount, 0);
        vm.assertEq(x.lastActivityAt, time());
        vm.assertEq(x.reassignCount, 0);
        vm.assertEq(x.deposit, 0);
        vm.assertEq(x.excludedWorkers.length, 0);
        vm.assertEq(jobs.nonce(user), 1);
        vm.assertEq(jobs.sessionCount(), 1);
    }

    function test_getSessionOfNothing() public {
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SessionNotFound.selector, 7));
        jobs.getSession(7);
    }

    function test_createTakesNoCoin() public {
        bytes memory sig = good();
        vm.prank(user);
        vm.expectRevert(IJobRegistry.UnexpectedETH.selector);
        jobs.createSession{value: 1}(MODEL, worker, ew, ed, sig, expiry);
    }

    function test_expiryEdges() public {
        bytes memory sig = good();
        vm.warp(expiry + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SignatureExpired.selector, expiry, expiry + 1));
        create(sig);
        vm.warp(expiry);
        create(sig);
    }

    function test_replayFails() public {
        bytes memory sig = good();
        create(sig);
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        create(sig);
    }

    function test_signatureOfAnotherChainFails() public {
        vm.chainId(8200);
        bytes memory sig = good();
        vm.chainId(9200);
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        create(sig);
        vm.chainId(8200);
        create(sig);
    }

    function test_signatureForAnotherContractFails() public {
        bytes memory sig = good();
        deploy();
        vm.startPrank(owner);
        config.registerModel(MODEL, FEE, 2048);
        workers.addWhitelistedModel(MODEL);
        vm.stopPrank();
        join(worker, 0xe1, MIN_STAKE);
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        create(sig);
    }

    function test_signatureForAnotherUserFails() public {
        bytes memory sig = good();
        vm.prank(vm.addr(0xbad));
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        jobs.createSession(MODEL, worker, ew, ed, sig, expiry);
    }

    function test_everySignedFieldCounts() public {
        bytes memory sig = good();
        vm.startPrank(user);
        bytes4 bad = IJobRegistry.InvalidDispatcherSignature.selector;
        vm.expectRevert(bad);
        jobs.createSession(MODEL, worker, ed, ew, sig, expiry);
        vm.expectRevert(bad);
        jobs.createSession(MODEL, worker, ew, ew, sig, expiry);
        vm.expectRevert(bad);
        jobs.createSession(MODEL, worker, ed, ed, sig, expiry);
        vm.expectRevert(bad);
        jobs.createSession(MODEL, worker2, ew, ed, sig, expiry);
        vm.expectRevert(bad);
        jobs.createSession(keccak256("other"), worker, ew, ed, sig, expiry);
        vm.expectRevert(bad);
        jobs.createSession(MODEL, worker, ew, ed, sig, expiry + 1);
        vm.stopPrank();
    }

    function test_onlyTheDispatcherSigns() public {
        bytes memory sig = authorization(WORKER_KEY, user, worker, ew, ed, 0, expiry);
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        create(sig);
    }

    function test_malleableAndMalformedSignatures() public {
        bytes memory other = malleable(good());
        (, bytes32 s,) = split(other);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.ECDSAInvalidSignatureS.selector, s));
        create(other);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistryExtra.ECDSAInvalidSignatureLength.selector, 3));
        create(hex"010203");
        vm.expectRevert(IJobRegistryExtra.ECDSAInvalidSignature.selector);
        create(new bytes(65));
    }

    function test_withoutADispatcherThereIsNoSignedSession() public {
        bytes memory sig = good();
        vm.prank(owner);
        config.setDispatcherAddress(address(0));
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        create(sig);
        // No signature is looked at, not even one that is none.
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        create("");
    }

    function test_keyLengths() public {
        bytes memory long = new bytes(126);
        bytes memory sig = authorization(DISPATCHER_KEY, user, worker, long, ed, 0, expiry);
        vm.startPrank(user);
        vm.expectRevert(IJobRegistry.InvalidSessionKey.selector);
        jobs.createSession(MODEL, worker, long, ed, sig, expiry);
        sig = authorization(DISPATCHER_KEY, user, worker, "", ed, 0, expiry);
        vm.expectRevert(IJobRegistry.InvalidSessionKey.selector);
        jobs.createSession(MODEL, worker, "", ed, sig, expiry);
        sig = authorization(DISPATCHER_KEY, user, worker, ew, long, 0, expiry);
        vm.expectRevert(IJobRegistry.InvalidSessionKey.selector);
        jobs.createSession(MODEL, worker, ew, long, sig, expiry);
        sig = authorization(DISPATCHER_KEY, user, worker, ew, "", 0, expiry);
        uint256 id = jobs.createSession(MODEL, worker, ew, "", sig, expiry);
        vm.stopPrank();
        vm.assertEq(jobs.getSession(id).encDisputerKey.length, 0);
    }

    function test_modelMustBeEnabledAndWorkerEligible() public {
        bytes memory sig = good();
        vm.prank(owner);
        config.disableModel(MODEL);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.ModelDisabled.selector, MODEL));
        create(sig);
        vm.prank(owner);
        config.enableModel(MODEL);
        vm.prank(worker);
        workers.removeSupportedModel(MODEL);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.WorkerNotEligible.selector, worker, MODEL));
        create(sig);
    }

    // -------------------------------------------------------------- reassigning

    function update(uint256 key, uint256 id, address worker_, uint256 nonce) internal view returns (bytes memory) {
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "SessionKeyUpdate(uint256 sessionId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry)"
                ),
                id,
                worker_,
                keccak256(ed),
                keccak256(ew),
                nonce,
                expiry
            )
        );
        return signature(key, typed(structHash));
    }

    function test_reassignThenNewKeys() public {
        uint256 id = create(good());
        vm.prank(user);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.SessionReassigned(id, worker2);
        jobs.reassignSession(id);
        IJobRegistry.Session memory x = jobs.getSession(id);
        vm.assertEq(x.worker, worker2);
        vm.assertEq(uint256(x.status), 1);
        vm.assertEq(x.reassignCount, 1);
        vm.assertEq(x.excludedWorkers.length, 1);
        vm.assertEq(x.excludedWorkers[0], worker);

        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SessionNotActive.selector, id));
        jobs.submitJob{value: FEE}(id, PROMPT);

        bytes memory sig = update(DISPATCHER_KEY, id, worker2, 1);
        vm.prank(worker2);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotSessionOwner.selector, id, worker2, user));
        jobs.updateSessionKey(id, ed, ew, sig, expiry);
        vm.startPrank(user);
        vm.expectRevert(IJobRegistry.InvalidDispatcherSignature.selector);
        jobs.updateSessionKey(id, ew, ed, sig, expiry);
        vm.warp(expiry + 1);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SignatureExpired.selector, expiry, expiry + 1));
        jobs.updateSessionKey(id, ed, ew, sig, expiry);
        vm.warp(expiry);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.SessionKeyUpdated(id, ed, ew);
        jobs.updateSessionKey(id, ed, ew, sig, expiry);
        x = jobs.getSession(id);
        vm.assertEq(uint256(x.status), 0);
        vm.assertEq(x.encWorkerKey, ed);
        vm.assertEq(x.lastActivityAt, expiry);
        vm.assertEq(jobs.nonce(user), 2);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.SessionNotReassigning.selector, id));
        jobs.updateSessionKey(id, ed, ew, sig, expiry);
        jobs.submitJob{value: FEE}(id, PROMPT);
        vm.stopPrank();
    }

    function test_keyUpdateNamesTheWorkerAndTheNonce() public {
        uint256 id = create(good());
        vm.startPrank(user);
        jobs.reassignSession(id);
        bytes4 bad = IJobRegistry.InvalidDispatcherSignature.selector;
        bytes memory sig = update(DISPATCHER_KEY, id, worker, 1);
        vm.expectRevert(bad);
        jobs.updateSessionKey(id, ed, ew, sig, expiry);
        sig = update(DISPATCHER_KEY, id, worker2, 0);
        vm.expectRevert(bad);
        jobs.updateSessionKey(id, ed, ew, sig, expiry);
        sig = update(WORKER_KEY, id, worker2, 1);
        vm.expectRevert(bad);
        jobs.updateSessionKey(id, ed, ew, sig, expiry);
        vm.stopPrank();
    }

    function test_keyUpdateWithoutDispatcherIsTheOwnersAlone() public {
        uint256 id = create(good());
        vm.prank(owner);
        config.setDispatcherAddress(address(0));
        vm.startPrank(user);
        jobs.reassignSession(id);
        jobs.updateSessionKey(id, ed, ew, "", expiry);
        vm.stopPrank();
        vm.assertEq(uint256(jobs.getSession(id).status), 0);
    }

    function test_keyUpdateChecksKeysAndWorker() public {
        uint256 id = create(good());
        vm.prank(owner);
        config.setDispatcherAddress(address(0));
        vm.startPrank(user);
        jobs.reassignSession(id);
        vm.expectRevert(IJobRegistry.InvalidSessionKey.selector);
        jobs.updateSessionKey(id, "", ew, "", expiry);
        vm.stopPrank();
        vm.prank(worker2);
        workers.removeSupportedModel(MODEL);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.WorkerNotEligible.selector, worker2, MODEL));
        jobs.updateSessionKey(id, ed, ew, "", expiry);
    }

    function test_whoMayReassign() public {
        uint256 id = create(good());
        vm.prank(keeper);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotSessionOwner.selector, id, keeper, user));
        jobs.reassignSession(id);
        vm.prank(user);
        jobs.setDelegateAuthorization(keeper, true);
        uint256 snapshot = vm.snapshotState();
        vm.prank(keeper);
        jobs.reassignSession(id);
        vm.revertToState(snapshot);
        // Anybody, once the worker is gone.
        vm.prank(worker);
        workers.deregisterWorker();
        vm.prank(address(0x5757));
        jobs.reassignSession(id);
        vm.assertEq(jobs.getSession(id).worker, worker2);
    }

    function test_reassignmentsAreLimited() public {
        uint256 id = create(good());
        vm.startPrank(user);
        jobs.reassignSession(id);
        // Both workers are excluded now.
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NoAvailableWorker.selector, MODEL));
        jobs.reassignSession(id);
        vm.stopPrank();
        vm.prank(owner);
        config.setMaxReassignments(1);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.MaxReassignmentsExceeded.selector, id, 1));
        jobs.reassignSession(id);
    }

    function test_close() public {
        uint256 id = create(good());
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotSessionOwner.selector, id, address(this), user));
        jobs.closeSession(id);
        vm.startPrank(user);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.SessionClosed(id);
        jobs.closeSession(id);
        bytes memory notActive = abi.encodeWithSelector(IJobRegistry.SessionNotActive.selector, id);
        vm.expectRevert(notActive);
        jobs.closeSession(id);
        vm.expectRevert(notActive);
        jobs.submitJob{value: FEE}(id, PROMPT);
        vm.expectRevert(notActive);
        jobs.reassignSession(id);
        vm.stopPrank();
    }

    function test_adoptIsTheManagersAlone() public {
        vm.expectRevert(IJobRegistry.NotSessionManager.selector);
        jobs.adoptSession(user, MODEL, worker, ew, ed);
        vm.startPrank(address(manager));
        vm.expectRevert(IJobRegistry.ZeroAddress.selector);
        jobs.adoptSession(address(0), MODEL, worker, ew, ed);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.SessionAdopted(1, user, worker);
        jobs.adoptSession(user, MODEL, worker, ew, ed);
        vm.stopPrank();
        vm.prank(owner);
        config.setSortitionEnabled(false);
        vm.prank(address(manager));
        vm.expectRevert(IJobRegistry.SortitionDisabled.selector);
        jobs.adoptSession(user, MODEL, worker, ew, ed);
    }

    function test_pauseStopsSessions() public {
        bytes memory sig = good();
        uint256 id = create(sig);
        sig = good();
        vm.prank(guardian);
        jobs.pause();
        bytes4 paused = PausableUpgradeable.EnforcedPause.selector;
        vm.expectRevert(paused);
        create(sig);
        vm.prank(user);
        vm.expectRevert(paused);
        jobs.reassignSession(id);
        vm.prank(user);
        vm.expectRevert(paused);
        jobs.updateSessionKey(id, ew, ed, sig, expiry);
        vm.prank(address(manager));
        vm.expectRevert(paused);
        jobs.adoptSession(user, MODEL, worker, ew, ed);
        vm.prank(user);
        jobs.closeSession(id);
    }
}
