// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {Base} from "./utils/Base.sol";
// forge compiles for a filtered run only what the chosen tests import, and deploys from what it compiled.
import {AIConfig} from "../src/AIConfig.sol";
import {CanaryLedger} from "../src/CanaryLedger.sol";
import {JobRegistry} from "../src/JobRegistry.sol";
import {ReputationRegistry} from "../src/ReputationRegistry.sol";
import {SessionManager} from "../src/SessionManager.sol";
import {WorkerRegistry} from "../src/WorkerRegistry.sol";

/// @dev What the ordinary calls cost, transaction overhead included (run with --isolate, see tools/gas.sh). Workers and
/// accounts are warm in the sense of the second job, which is the usual one.
contract GasTest is Base {
    function test_gas() public {
        address fresh = address(0xf4e5);
        vm.deal(fresh, MIN_STAKE);
        bytes memory key = publicKey(0xee);
        vm.prank(fresh);
        workers.registerWorker{value: MIN_STAKE}(key);
        vm.snapshotGasLastCall("gas", "registerWorker");
        vm.prank(fresh);
        workers.addSupportedModel(MODEL);
        vm.snapshotGasLastCall("gas", "addSupportedModel");

        uint256 session = openSession(user, worker);
        uint256 expiry = time() + 120;
        bytes memory ew = wrappedKey(1);
        bytes memory ed = wrappedKey(2);
        bytes memory sig = authorization(DISPATCHER_KEY, user, worker, ew, ed, jobs.nonce(user), expiry);
        vm.prank(user);
        session = jobs.createSession(MODEL, worker, ew, ed, sig, expiry);
        vm.snapshotGasLastCall("gas", "createSession");

        // One settled job first, so that the balances exist.
        uint256 id = submit(session);
        complete(id);
        vm.warp(time() + 1000);
        vm.prank(user);
        id = jobs.submitJob{value: FEE}(session, PROMPT);
        vm.snapshotGasLastCall("gas", "submitJob");
        vm.prank(worker);
        jobs.acknowledgeJob(id);
        vm.snapshotGasLastCall("gas", "acknowledgeJob");
        vm.prank(worker);
        jobs.completeJob(id, RESPONSE, keccak256("c"));
        vm.snapshotGasLastCall("gas", "completeJob");
        vm.warp(time() + 3601);
        vm.prank(keeper);
        jobs.releaseJob(1);
        vm.prank(keeper);
        jobs.releaseJob(id);
        vm.snapshotGasLastCall("gas", "releaseJob");
        vm.prank(worker);
        jobs.withdraw();
        vm.snapshotGasLastCall("gas", "withdraw");
    }

    function test_gasOfABatch() public {
        uint256 session = openSession(user, worker);
        uint256[] memory ids = new uint256[](50);
        for (uint256 i = 0; i < 50; ++i) {
            ids[i] = submit(session);
            complete(ids[i]);
        }
        vm.warp(time() + 3601);
        vm.prank(keeper);
        jobs.releaseJobs(ids);
        vm.snapshotGasLastCall("gas", "releaseJobs of 50");
    }

    function test_gasOfSettlements() public {
        uint256 session = openSession(user, worker);
        uint256 late = submit(session);
        uint256 disputed = submit(session);
        complete(disputed);
        vm.prank(user);
        jobs.disputeJob{value: FEE}(disputed);
        vm.snapshotGasLastCall("gas", "disputeJob");
        vm.prank(disputer);
        jobs.resolveDispute(disputed, true, RESPONSE, 100);
        vm.snapshotGasLastCall("gas", "resolveDispute guilty");
        vm.warp(time() + 91);
        vm.prank(keeper);
        jobs.claimTimeout(late);
        vm.snapshotGasLastCall("gas", "claimTimeout");
    }

    function test_gasOfSortition() public {
        vm.prank(user);
        uint256 req = manager.requestSession(MODEL, time() + 3600);
        vm.snapshotGasLastCall("gas", "requestSession");
        vm.roll(height() + 2 + config.getClaimWindowBlocks());
        vm.prank(worker);
        manager.claimSession(req);
        vm.snapshotGasLastCall("gas", "claimSession");
        vm.prank(user);
        manager.provideSessionKey(req, wrappedKey(1), wrappedKey(2));
        vm.snapshotGasLastCall("gas", "provideSessionKey");
    }
}
