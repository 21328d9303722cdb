// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {ISessionManager} from "../src/interfaces/ISessionManager.sol";
import {ISessionManagerExtra} from "../src/interfaces/ISessionManagerExtra.sol";
import {Base} from "./utils/Base.sol";

contract SortitionTest is Base {
    address internal constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    uint256 internal expiry;

    function setUp() public override {
        super.setUp();
        // The workers were there before any request.
        vm.roll(height() + 1);
        expiry = time() + 3600;
    }

    function request() internal returns (uint256 reqId) {
        vm.prank(user);
        reqId = manager.requestSession(MODEL, expiry);
    }

    /// @dev Two blocks on, with the hash of the block between, which is the seed of a request made now.
    function mineSeed(bytes32 hash) internal {
        uint256 seedBlock = height() + 1;
        vm.roll(seedBlock + 1);
        vm.setBlockhash(seedBlock, hash);
    }

    /// @dev To the end of the claim window, when everyone eligible may claim.
    function openToAll() internal {
        vm.roll(height() + 2 + config.getClaimWindowBlocks());
    }

    function claimed() internal returns (uint256 reqId) {
        reqId = request();
        openToAll();
        vm.prank(worker);
        manager.claimSession(reqId);
    }

    // ------------------------------------------------------------------ request

    function test_request() public {
        vm.prank(user);
        vm.expectEmit(address(manager));
        emit ISessionManager.SessionRequested(1, user, MODEL, height());
        uint256 reqId = manager.requestSession(MODEL, expiry);
        ISessionManager.Request memory r = manager.getRequest(reqId);
        vm.assertEq(r.user, user);
        vm.assertEq(r.modelId, MODEL);
        vm.assertEq(r.requestBlock, height());
        vm.assertEq(r.expiry, expiry);
        vm.assertEq(r.worker, address(0));
        vm.assertEq(uint256(r.status), 0);
        vm.assertEq(manager.requestCount(), 1);
    }

    function test_requestRefusals() public {
        uint256 latest = time() + 1 days;
        vm.expectRevert(
            abi.encodeWithSelector(ISessionManagerExtra.ExpiryOutOfBounds.selector, time(), time() + 1, latest)
        );
        manager.requestSession(MODEL, time());
        vm.expectRevert(
            abi.encodeWithSelector(ISessionManagerExtra.ExpiryOutOfBounds.selector, latest + 1, time() + 1, latest)
        );
        manager.requestSession(MODEL, latest + 1);
        manager.requestSession(MODEL, latest);
        vm.expectRevert(abi.encodeWithSelector(ISessionManagerExtra.ModelDisabled.selector, bytes32(0)));
        manager.requestSession(bytes32(0), expiry);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.UnknownCapabilityBits.selector, 1));
        manager.requestSessionWithCapabilities(MODEL, expiry, 1);
        vm.expectRevert(
            abi.encodeWithSelector(ISessionManager.NotAuthorizedDelegate.selector, user, address(this))
        );
        manager.requestSessionFor(user, MODEL, expiry);
        vm.expectRevert(
            abi.encodeWithSelector(ISessionManager.NotAuthorizedDelegate.selector, user, address(this))
        );
        manager.requestSessionForWithCapabilities(user, MODEL, expiry, 0);
        vm.prank(owner);
        config.setSortitionEnabled(false);
        vm.expectRevert(ISessionManager.SortitionDisabled.selector);
        manager.requestSession(MODEL, expiry);
    }

    // -------------------------------------------------------------------- claim

    function test_wholeWay() public {
        uint256 reqId = request();
        vm.assertFalse(manager.eligibleNow(reqId, worker), "no seed");
        vm.roll(height() + 1);
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.SeedNotReady.selector, reqId));
        manager.claimSession(reqId);
        vm.assertEq(manager.seedOf(reqId), bytes32(0));
        vm.roll(height() - 1);
        mineSeed(keccak256("the block after"));
        vm.assertEq(manager.seedOf(reqId), keccak256("the block after"));
        openToAll();
        vm.assertTrue(manager.eligibleNow(reqId, worker));
        vm.prank(worker);
        vm.expectEmit(address(manager));
        emit ISessionManager.SessionClaimed(reqId, worker);
        manager.claimSession(reqId);
        vm.prank(worker2);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.AlreadyClaimed.selector, reqId));
        manager.claimSession(reqId);
        vm.assertFalse(manager.eligibleNow(reqId, worker2));
        vm.assertEq(uint256(manager.getRequest(reqId).status), 1);

        bytes memory ew = wrappedKey(1);
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.NotRequestOwner.selector, reqId));
        manager.provideSessionKey(reqId, ew, "");
        vm.startPrank(user);
        vm.expectRevert(IJobRegistry.InvalidSessionKey.selector);
        manager.provideSessionKey(reqId, "", "");
        vm.expectEmit(address(manager));
        emit ISessionManager.SessionReady(reqId, 1);
        manager.provideSessionKey(reqId, ew, "");
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.RequestNotClaimed.selector, reqId));
        manager.provideSessionKey(reqId, ew, "");
        vm.stopPrank();
        vm.assertEq(uint256(manager.getRequest(reqId).status), 2);
        IJobRegistry.Session memory x = jobs.getSession(1);
        vm.assertEq(x.user, user);
        vm.assertEq(x.worker, worker);
        complete(submit(1));
    }

    function test_delegateForms() public {
        vm.startPrank(owner);
        workers.registerCapability("search");
        vm.stopPrank();
        vm.prank(user);
        jobs.setDelegateAuthorization(keeper, true);
        vm.startPrank(keeper);
        manager.requestSessionFor(user, MODEL, expiry);
        vm.expectEmit(address(manager));
        emit ISessionManagerExtra.CapabilitiesRequired(2, 1);
        uint256 reqId = manager.requestSessionForWithCapabilities(user, MODEL, expiry, 1);
        vm.stopPrank();
        vm.assertEq(manager.getRequest(reqId).user, user);
        vm.assertEq(manager.getRequiredCapabilities(reqId), 1);
        openToAll();
        vm.assertTrue(manager.eligibleNow(reqId, worker), "does not ask for capabilities");
        vm.startPrank(worker);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.MissingCapabilities.selector, worker, 1));
        manager.claimSession(reqId);
        workers.setCapabilities(1);
        manager.claimSession(reqId);
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(ISessionManager.NotAuthorizedDelegate.selector, user, address(this))
        );
        manager.provideSessionKeyFor(user, reqId, wrappedKey(1), wrappedKey(2));
        vm.prank(keeper);
        manager.provideSessionKeyFor(user, reqId, wrappedKey(1), wrappedKey(2));
        vm.assertEq(jobs.getSession(1).user, user);
        // A delegate of one user has nothing to do with another's request.
        vm.prank(worker2);
        jobs.setDelegateAuthorization(keeper, true);
        uint256 other = claimed();
        vm.prank(keeper);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.NotRequestOwner.selector, other));
        manager.provideSessionKeyFor(worker2, other, wrappedKey(1), "");
    }

    function test_claimRefusals() public {
        uint256 reqId = request();
        openToAll();
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.RequestNotOpen.selector, 99));
        manager.claimSession(99);
        vm.expectRevert(
            abi.encodeWithSelector(ISessionManager.WorkerNotEligibleForClaim.selector, address(this))
        );
        manager.claimSession(reqId);
        vm.prank(owner);
        config.setMaxConcurrentJobs(1);
        submit(openSession(user, worker));
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.WorkerAtCapacity.selector, worker));
        manager.claimSession(reqId);
        vm.warp(expiry + 1);
        vm.prank(worker2);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.RequestExpired.selector, reqId));
        manager.claimSession(reqId);
        vm.assertFalse(manager.eligibleNow(reqId, worker2));
        vm.assertEq(uint256(manager.getRequest(reqId).status), 3);
        vm.warp(expiry);
        vm.prank(owner);
        config.setSortitionEnabled(false);
        vm.prank(worker2);
        vm.expectRevert(ISessionManager.SortitionDisabled.selector);
        manager.claimSession(reqId);
        vm.prank(owner);
        config.setSortitionEnabled(true);
        vm.prank(worker2);
        manager.claimSession(reqId);
        vm.warp(expiry + 1);
        vm.assertEq(uint256(manager.getRequest(reqId).status), 3);
        vm.prank(user);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.RequestExpired.selector, reqId));
        manager.provideSessionKey(reqId, wrappedKey(1), "");
        vm.warp(expiry);
        vm.prank(user);
        manager.provideSessionKey(reqId, wrappedKey(1), "");
        vm.assertEq(uint256(manager.getRequest(reqId).status), 2);
    }

    function test_expiredViewOfAFinishedRequestStaysReady() public {
        uint256 reqId = claimed();
        vm.prank(user);
        manager.provideSessionKey(reqId, wrappedKey(1), "");
        vm.warp(expiry + 1);
        vm.assertEq(uint256(manager.getRequest(reqId).status), 2);
    }

    // ---------------------------------------------------------------- threshold

    function testFuzz_thresholdOnlyLoosens(bytes32 hash) public {
        vm.assume(hash != 0);
        vm.prank(user);
        uint256 reqId = manager.requestSession(MODEL, expiry);
        mineSeed(hash);
        bool passed;
        for (uint256 i = 0; i <= 10; ++i) {
            bool now_ = manager.eligibleNow(reqId, worker);
            vm.assertTrue(now_ || !passed, "tightened");
            passed = now_;
            if (!now_) {
                vm.prank(worker);
                vm.expectRevert(abi.encodeWithSelector(ISessionManager.NotSortitionEligible.selector, worker));
                manager.claimSession(reqId);
            }
            vm.roll(height() + 1);
        }
        vm.assertTrue(passed, "open to all at the end");
    }

    /// @dev The first block lets in about one worker; stake and score let a worker in earlier.
    function test_weightLetsInEarlier() public {
        address rich = address(0x51c4);
        join(rich, 0xe7, 10 * MIN_STAKE);
        vm.roll(height() + 1);
        vm.prank(address(jobs));
        reputation.recordDisputeLoss(worker2);
        uint256[3] memory first;
        for (uint256 i = 0; i < 300; ++i) {
            vm.prank(user);
            uint256 reqId = manager.requestSession(MODEL, time() + 3600);
            mineSeed(keccak256(abi.encode("block", i)));
            if (manager.eligibleNow(reqId, rich)) ++first[0];
            if (manager.eligibleNow(reqId, worker)) ++first[1];
            if (manager.eligibleNow(reqId, worker2)) ++first[2];
        }
        print("first block, ten stakes", first[0]);
        print("first block, one stake", first[1]);
        print("first block, one stake, lost a dispute", first[2]);
        // 1 - 2^-(weight / total): 10/12, 1/12 and 0.8/12 of it.
        vm.assertTrue(first[0] > 105 && first[0] < 160, "rich");
        vm.assertTrue(first[1] > 4 && first[1] < 36, "plain");
        vm.assertTrue(first[2] < first[0] / 4, "penalised");
    }

    /// @dev The seed is public before the first claim: keys and stakes that were chosen by it have no ticket. One block before
    /// the window's end nearly every ticket passes.
    function test_whatWasChosenByTheSeedHasNoTicket() public {
        uint256 reqId = request();
        uint256 end = height() + 2 + config.getClaimWindowBlocks();
        join(address(0x8fff), 0xe7, 10 * MIN_STAKE);
        mineSeed(keccak256("known"));
        for (uint160 i = 0; i < 20; ++i) {
            join(address(0x9000 + i), 0xe7, 10 * MIN_STAKE);
        }
        vm.prank(worker);
        workers.topUpStake{value: 1 ether}();
        vm.roll(end - 1);
        vm.assertTrue(manager.eligibleNow(reqId, worker2), "there before the request");
        vm.assertFalse(manager.eligibleNow(reqId, worker), "topped up since");
        for (uint160 i = 0; i <= 20; ++i) {
            address late = address(0x8fff + i);
            vm.assertFalse(manager.eligibleNow(reqId, late), "registered since");
            vm.prank(late);
            vm.expectRevert(abi.encodeWithSelector(ISessionManager.NotSortitionEligible.selector, late));
            manager.claimSession(reqId);
        }
        vm.roll(end);
        vm.assertTrue(manager.eligibleNow(reqId, worker), "open to all");
        vm.assertTrue(manager.eligibleNow(reqId, address(0x9000)), "open to all");
        // The next request is like any other to them.
        uint256 next = request();
        mineSeed(keccak256("the next"));
        vm.roll(height() + config.getClaimWindowBlocks() - 1);
        uint256 passed;
        for (uint160 i = 0; i <= 20; ++i) {
            if (manager.eligibleNow(next, address(0x8fff + i))) ++passed;
        }
        print("of 21 in the last block before the window's end", passed);
        vm.assertTrue(passed > 15, "tickets as everybody");
    }

    function test_everyWayToMoreWeightIsDated() public {
        vm.assertEq(workers.getWeightSince(worker), height() - 1, "registered");
        vm.startPrank(worker);
        workers.topUpStake{value: 1 ether}();
        vm.assertEq(workers.getWeightSince(worker), height());
        workers.removeSupportedModel(MODEL);
        vm.roll(height() + 1);
        vm.assertEq(workers.getWeightSince(worker), height() - 1);
        workers.addSupportedModel(MODEL);
        vm.assertEq(workers.getWeightSince(worker), height(), "listed a model");
        vm.stopPrank();
        vm.roll(height() + 1);
        uint256 threshold = config.getSuspensionThreshold();
        for (uint256 i = 0; i < threshold; ++i) {
            vm.prank(address(jobs));
            workers.slash(worker, 1);
        }
        vm.assertEq(workers.getWeightSince(worker), height() - 1, "less weight is no news");
        vm.warp(time() + config.getSuspensionCooldown());
        vm.prank(worker);
        workers.reinstate();
        vm.assertEq(workers.getWeightSince(worker), height(), "reinstated");
        vm.assertEq(workers.getWeightSince(user), 0);
    }

    /// @dev One block before the window's end nearly every ticket would pass, a ticket of the zero seed too.
    function test_withoutASeedOnlyTheWindowsEndLetsIn() public {
        vm.prank(owner);
        config.setClaimWindowBlocks(4096);
        uint256 reqId = request();
        uint256 end = height() + 2 + 4096;
        vm.roll(end - 1);
        vm.assertEq(manager.seedOf(reqId), bytes32(0));
        vm.assertFalse(manager.eligibleNow(reqId, worker), "closed without a seed");
        vm.prank(worker);
        vm.expectRevert(abi.encodeWithSelector(ISessionManager.NotSortitionEligible.selector, worker));
        manager.claimSession(reqId);
        vm.roll(end);
        vm.assertTrue(manager.eligibleNow(reqId, worker), "open to all");
        vm.prank(worker);
        manager.claimSession(reqId);
    }

    function test_anOldSeedComesFromTheHistoryContract() public {
        vm.prank(owner);
        config.setClaimWindowBlocks(4096);
        uint256 reqId = request();
        uint256 seedBlock = height() + 1;
        vm.roll(height() + 400);
        vm.setBlockhash(seedBlock, bytes32(0));
        vm.assertEq(manager.seedOf(reqId), bytes32(0));
        vm.assertFalse(manager.eligibleNow(reqId, worker), "closed without a seed");
        // The deployed code of EIP-2935, and its ring buffer as the client fills it.
        vm.etch(
            HISTORY,
            hex"3373fffffffffffffffffffffffffffffffffffffffe14604657602036036042575f35600143038111604257611fff81430311604257611fff9006545f5260205ff35b5f5ffd5b5f35611fff60014303065500"
        );
        vm.store(HISTORY, bytes32(seedBlock % 8191), keccak256("old"));
        vm.assertEq(manager.seedOf(reqId), keccak256("old"));
    }
}
