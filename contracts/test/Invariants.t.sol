// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {Base} from "./utils/Base.sol";
import {Handler, Refuser} from "./utils/Handler.sol";
import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";

/// @dev What must hold after any sequence of calls by any actor.
contract InvariantsTest is Base {
    Handler internal handler;

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function setUp() public override {
        super.setUp();
        address[] memory users = new address[](3);
        users[0] = user;
        users[1] = vm.addr(0xb2);
        users[2] = address(new Refuser());
        address[] memory staff = new address[](3);
        staff[0] = worker;
        staff[1] = worker2;
        staff[2] = vm.addr(0xa3);
        join(staff[2], 0xe3, MIN_STAKE * 2);
        handler = new Handler(config, workers, jobs, manager, owner, guardian, disputer, keeper, users, staff);
    }

    function targetContracts() external view returns (address[] memory list) {
        list = new address[](1);
        list[0] = address(handler);
    }

    function invariant_jobRegistryHoldsExactlyWhatItOwes() external view {
        uint256 owed;
        for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
            IJobRegistry.Job memory j = jobs.getJob(id);
            owed += j.escrowedFee + j.disputeBond;
        }
        address[] memory all = handler.accounts();
        for (uint256 i = 0; i < all.length; ++i) {
            owed += jobs.prepaidBalanceOf(all[i]) + jobs.workerBalance(all[i]) + jobs.pendingRefund(all[i]);
        }
        owed += jobs.pendingRefund(treasury) + jobs.pendingRefund(feePool);
        vm.assertEq(address(jobs).balance, owed);
    }

    /// @dev Every wei that came in went out to somebody or is still here.
    function invariant_noJobPaysTwice() external view {
        vm.assertEq(handler.paidIn(), handler.paidOut() + address(jobs).balance);
    }

    function invariant_workerRegistryHoldsStakesAndSlashedFunds() external view {
        uint256 stakes;
        for (uint256 i = 0; i < 3; ++i) {
            stakes += workers.getWorkerStake(handler.staff(i));
        }
        vm.assertEq(address(workers).balance, stakes + workers.getSlashedFunds());
        vm.assertEq(workers.getTotalStaked(height()), stakes);
    }

    function invariant_countersEqualTheJobs() external view {
        uint256[3] memory open;
        uint256[3] memory active;
        for (uint256 id = 1; id <= jobs.jobCount(); ++id) {
            IJobRegistry.Job memory j = jobs.getJob(id);
            uint256 w = handler.staffIndex(j.worker);
            if (uint256(j.state) < 2) ++open[w];
            bool unsettled = j.state != IJobRegistry.JobState.TimedOut && j.state != IJobRegistry.JobState.Released
                && !(j.state == IJobRegistry.JobState.Resolved && j.escrowedFee == 0);
            if (unsettled) ++active[w];
        }
        for (uint256 i = 0; i < 3; ++i) {
            vm.assertEq(jobs.openJobCount(handler.staff(i)), open[i], "open");
            vm.assertEq(workers.getActiveJobCount(handler.staff(i)), active[i], "active");
        }
    }

    function invariant_onlyWorkersInGoodStandingAreDrawn() external view {
        address[] memory set = workers.getEligibleWorkers(MODEL);
        for (uint256 i = 0; i < set.length; ++i) {
            vm.assertTrue(workers.isEligible(set[i], MODEL), "listed but not eligible");
            vm.assertGe(workers.getWorkerStake(set[i]), config.getMinWorkerStake());
            vm.assertFalse(workers.isWorkerSuspended(set[i]));
        }
        for (uint256 i = 0; i < 3; ++i) {
            if (!workers.isEligible(handler.staff(i), MODEL)) continue;
            bool found;
            for (uint256 k = 0; k < set.length; ++k) {
                found = found || set[k] == handler.staff(i);
            }
            vm.assertTrue(found, "eligible but not listed");
        }
        if (set.length != 0) {
            address drawn = workers.selectEligibleWorker(MODEL, new address[](0), time());
            vm.assertTrue(workers.isEligible(drawn, MODEL), "drawn");
        }
    }

    function invariant_everyNonceMadeOneSession() external view {
        for (uint256 i = 0; i < 3; ++i) {
            address who = handler.users(i);
            vm.assertEq(jobs.nonce(who), handler.noncesUsed(who));
        }
    }

    /// @dev An idle handler would make every invariant above hold.
    function afterInvariant() external view {
        vm.assertTrue(handler.calls() > 0, "handler idle");
    }
}
