// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IJobRegistry} from "../src/interfaces/IJobRegistry.sol";
import {IGuarded} from "../src/interfaces/IGuarded.sol";
import {IJobRegistryExtra} from "../src/interfaces/IJobRegistryExtra.sol";
import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Base} from "./utils/Base.sol";

/// @dev Calls back into a registry whenever it is paid and remembers how that went.
contract Reenterer {
    // One slot, so that a push's gas is enough to note what happened.
    address public target;
    bool public tried;
    bool public succeeded;
    bool public refusing;
    bytes4 public failure;
    bytes public data;

    function arm(address target_, bytes memory data_) external {
        target = target_;
        data = data_;
    }

    function setRefusing(bool value) external {
        refusing = value;
    }

    function act(address to, uint256 value, bytes memory call_) external payable returns (bytes memory out) {
        bool ok;
        (ok, out) = to.call{value: value}(call_);
        require(ok, "act failed");
    }

    receive() external payable {
        require(!refusing, "refused");
        if (target == address(0)) return;
        (bool ok, bytes memory out) = target.call(data);
        (tried, succeeded, failure) = (true, ok, bytes4(out));
    }
}

/// @dev Burns all gas it is given.
contract GasBurner {
    receive() external payable {
        while (true) {}
    }
}

contract MoneyTest is Base {
    // ----------------------------------------------------------------- deposits

    function test_depositAndWithdraw() public {
        vm.startPrank(user);
        vm.expectRevert(IJobRegistry.ZeroDeposit.selector);
        jobs.deposit();
        vm.expectEmit(address(jobs));
        emit IJobRegistry.Deposited(user, 5, 5);
        jobs.deposit{value: 5}();
        jobs.deposit{value: 2}();
        vm.assertEq(jobs.prepaidBalanceOf(user), 7);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.InsufficientBalance.selector, user, 8, 7));
        jobs.withdrawBalance(8);
        uint256 before = user.balance;
        vm.expectEmit(address(jobs));
        emit IJobRegistry.Withdrew(user, 3, 4);
        jobs.withdrawBalance(3);
        vm.assertEq(user.balance - before, 3);
        vm.stopPrank();
    }

    function test_delegates() public {
        uint256 session = openSession(user, worker);
        vm.startPrank(user);
        vm.expectRevert(IJobRegistry.ZeroDeposit.selector);
        jobs.depositAndAuthorize(keeper);
        vm.expectRevert(IJobRegistry.ZeroAddress.selector);
        jobs.depositAndAuthorize{value: 1}(address(0));
        vm.expectRevert(IJobRegistry.ZeroAddress.selector);
        jobs.setDelegateAllowance(address(0), 1);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.Deposited(user, 2 * FEE, 2 * FEE);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.DelegateAuthorizationSet(user, keeper, true);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.DelegateAllowanceSet(user, keeper, 2 * FEE);
        jobs.depositAndAuthorize{value: 2 * FEE}(keeper);
        vm.stopPrank();
        vm.assertTrue(jobs.isDelegateAuthorized(user, keeper));

        vm.startPrank(keeper);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotSessionOwner.selector, session, keeper, user));
        jobs.submitJobOnBehalf(keeper, session, PROMPT);
        jobs.submitJobOnBehalf(user, session, PROMPT);
        vm.stopPrank();
        vm.assertEq(jobs.delegateAllowance(user, keeper), FEE);
        vm.assertEq(jobs.prepaidBalanceOf(user), FEE);

        vm.prank(user);
        jobs.setDelegateAllowance(keeper, FEE - 1);
        vm.prank(keeper);
        vm.expectRevert(
            abi.encodeWithSelector(IJobRegistry.InsufficientDelegateAllowance.selector, user, keeper, FEE, FEE - 1)
        );
        jobs.submitJobOnBehalf(user, session, PROMPT);
        vm.startPrank(user);
        jobs.setDelegateAllowance(keeper, type(uint256).max);
        jobs.withdrawBalance(1);
        vm.stopPrank();
        vm.assertEq(jobs.delegateAllowance(user, keeper), type(uint256).max);
        vm.prank(keeper);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.InsufficientBalance.selector, user, FEE, FEE - 1));
        jobs.submitJobOnBehalf(user, session, PROMPT);
        // Revoking leaves the allowance where it is, and a deposit cannot overflow it.
        vm.startPrank(user);
        jobs.depositAndAuthorize{value: FEE}(keeper);
        jobs.setDelegateAuthorization(keeper, false);
        vm.stopPrank();
        vm.assertEq(jobs.delegateAllowance(user, keeper), type(uint256).max);
        vm.prank(keeper);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NotAuthorizedDelegate.selector, user, keeper));
        jobs.submitJobOnBehalf(user, session, PROMPT);
        // The user needs nobody's leave.
        vm.prank(user);
        jobs.submitJobOnBehalf(user, session, PROMPT);
    }

    function test_nothingToWithdraw() public {
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NoBalanceToWithdraw.selector, address(this)));
        jobs.withdraw();
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NoPendingRefund.selector, address(this)));
        jobs.claimRefund();
        (bool ok,) = address(jobs).call{value: 0}("");
        vm.assertFalse(ok, "plain transfers are not deposits");
    }

    // ------------------------------------------------------ griefing recipients

    function contractUser() internal returns (Reenterer who, uint256 session, uint256 job) {
        who = new Reenterer();
        vm.deal(address(who), 10 ether);
        session = openSession(address(who), worker);
        job = abi.decode(
            who.act(address(jobs), FEE, abi.encodeCall(IJobRegistry.submitJob, (session, PROMPT))), (uint256)
        );
    }

    function test_aRefusedRefundWaits() public {
        (Reenterer who,, uint256 job) = contractUser();
        who.setRefusing(true);
        vm.warp(time() + 91);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.TransferFailed(address(who), FEE);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.RefundEscrowed(address(who), FEE);
        jobs.claimTimeout(job);
        vm.assertEq(jobs.pendingRefund(address(who)), FEE);
        vm.expectRevert(IJobRegistry.EtherTransferFailed.selector);
        jobs.claimRefundFor(address(who));
        who.setRefusing(false);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.RefundClaimed(address(who), FEE);
        jobs.claimRefundFor(address(who));
        vm.assertEq(address(who).balance, 10 ether);
        vm.expectRevert(abi.encodeWithSelector(IJobRegistry.NoPendingRefund.selector, address(who)));
        jobs.claimRefundFor(address(who));
    }

    function test_refusedRefundsAddUp() public {
        (Reenterer who, uint256 session, uint256 first) = contractUser();
        bytes memory out = who.act(address(jobs), FEE, abi.encodeCall(IJobRegistry.submitJob, (session, PROMPT)));
        uint256 second = abi.decode(out, (uint256));
        who.setRefusing(true);
        vm.warp(time() + 91);
        jobs.claimTimeout(first);
        jobs.claimTimeout(second);
        vm.assertEq(jobs.pendingRefund(address(who)), 2 * FEE);
        who.setRefusing(false);
        jobs.claimRefundFor(address(who));
        vm.assertEq(address(who).balance, 10 ether);
    }

    function test_aGasBurningUserOnlyBurnsItsOwnRefund() public {
        uint256 session = openSession(user, worker);
        uint256 job = submit(session);
        vm.etch(user, address(new GasBurner()).code);
        vm.warp(time() + 91);
        vm.prank(keeper);
        (bool ok,) = address(jobs).call{gas: 600_000}(abi.encodeCall(IJobRegistry.claimTimeout, (job)));
        vm.assertTrue(ok, "bounded gas");
        vm.assertEq(jobs.pendingRefund(user), FEE);
    }

    function test_aRefusingTreasuryStopsNoRelease() public {
        uint256 job = completedJob();
        vm.etch(treasury, address(new GasBurner()).code);
        vm.etch(feePool, hex"fe");
        vm.warp(time() + 3601);
        vm.prank(worker);
        jobs.releaseJob(job);
        vm.assertEq(jobs.pendingRefund(treasury), FEE * 15 / 100);
        vm.assertEq(jobs.pendingRefund(feePool), FEE * 5 / 100);
        vm.etch(treasury, "");
        jobs.claimRefundFor(treasury);
        vm.assertEq(treasury.balance, FEE * 15 / 100);
    }

    function test_aRefusingKeeperLosesItsBountyOnly() public {
        uint256 job = submit(openSession(user, worker));
        Reenterer bad = new Reenterer();
        bad.setRefusing(true);
        vm.warp(time() + 91);
        bad.act(address(jobs), 0, abi.encodeCall(IJobRegistry.claimTimeout, (job)));
        vm.assertEq(address(bad).balance, 0);
        vm.assertEq(workers.getSlashedFunds(), MIN_STAKE * 200 / 10_000);
        vm.assertEq(address(workers).balance, 2 * MIN_STAKE);
    }

    // -------------------------------------------------------------- reentrancy

    function reenter(bytes memory data) internal {
        (Reenterer who,, uint256 job) = contractUser();
        vm.prank(address(who));
        jobs.deposit{value: 1 ether}();
        who.arm(address(jobs), data);
        vm.warp(time() + 91);
        jobs.claimTimeout(job);
        vm.assertTrue(who.tried(), "was not paid");
        vm.assertFalse(who.succeeded(), "came back in");
        vm.assertEq(bytes32(who.failure()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector));
    }

    function test_noWayBackInWhileSettling() public {
        uint256[] memory none = new uint256[](0);
        bytes[15] memory calls = [
            abi.encodeCall(IJobRegistry.claimTimeout, (1)),
            abi.encodeCall(IJobRegistry.settleStuckJob, (1)),
            abi.encodeCall(IJobRegistry.releaseJob, (1)),
            abi.encodeCall(IJobRegistry.releaseJobs, (none)),
            abi.encodeCall(IJobRegistry.withdrawBalance, (1)),
            abi.encodeCall(IJobRegistry.withdraw, ()),
            abi.encodeCall(IJobRegistry.claimRefund, ()),
            abi.encodeCall(IJobRegistry.submitJob, (1, PROMPT)),
            abi.encodeCall(IJobRegistry.disputeJob, (1)),
            abi.encodeCall(IJobRegistry.resolveDispute, (1, true, RESPONSE, 0)),
            abi.encodeCall(IJobRegistry.disputeResponseMismatch, (1, "c", "")),
            abi.encodeCall(IJobRegistry.submitJobOnBehalf, (address(0), 1, PROMPT)),
            abi.encodeCall(IJobRegistryExtra.submitJobWithBlob, (1, 0, FEE, time(), "")),
            abi.encodeCall(IJobRegistryExtra.submitJobsWithBlobs, (none, none, none, none, new bytes[](0))),
            abi.encodeCall(IJobRegistryExtra.claimRefundFor, (user))
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            reenter(calls[i]);
            vm.revertToState(snapshot);
        }
    }

    function test_aStakeIsPaidOnce() public {
        Reenterer who = new Reenterer();
        vm.deal(address(who), 2 * MIN_STAKE);
        who.act(address(workers), 2 * MIN_STAKE, abi.encodeCall(workers.registerWorker, (publicKey(0xe9))));
        who.arm(address(workers), abi.encodeCall(workers.withdrawStake, (MIN_STAKE)));
        who.act(address(workers), 0, abi.encodeCall(workers.withdrawStake, (MIN_STAKE)));
        vm.assertTrue(who.tried(), "was not paid");
        vm.assertFalse(who.succeeded(), "came back in");
        vm.assertEq(bytes32(who.failure()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector));
        vm.assertEq(workers.getWorkerStake(address(who)), MIN_STAKE);
        who.arm(address(workers), abi.encodeCall(workers.deregisterWorker, ()));
        who.act(address(workers), 0, abi.encodeCall(workers.deregisterWorker, ()));
        vm.assertFalse(who.succeeded(), "left twice");
        vm.assertEq(bytes32(who.failure()), bytes32(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector));
        vm.assertEq(address(who).balance, 2 * MIN_STAKE);
    }

    function test_aKeeperCannotReenterTheRegistryThatPaysIt() public {
        uint256 job = submit(openSession(user, worker));
        Reenterer bad = new Reenterer();
        bad.arm(address(workers), abi.encodeCall(workers.withdrawSlashedFunds, ()));
        vm.warp(time() + 91);
        bad.act(address(jobs), 0, abi.encodeCall(IJobRegistry.claimTimeout, (job)));
        vm.assertTrue(bad.tried(), "was not paid");
        vm.assertFalse(bad.succeeded(), "came back in");
    }

    function test_refusingAccountsKeepTheirBalances() public {
        uint256 job = completedJob();
        vm.prank(user);
        jobs.deposit{value: 5}();
        vm.warp(time() + 3601);
        jobs.releaseJob(job);
        bytes memory refusing = hex"fe";
        vm.etch(worker, refusing);
        vm.prank(worker);
        vm.expectRevert(IJobRegistry.EtherTransferFailed.selector);
        jobs.withdraw();
        vm.assertEq(jobs.workerBalance(worker), FEE * 8 / 10);
        vm.etch(user, refusing);
        vm.prank(user);
        vm.expectRevert(IJobRegistry.EtherTransferFailed.selector);
        jobs.withdrawBalance(5);
        vm.assertEq(jobs.prepaidBalanceOf(user), 5);
        vm.etch(worker, "");
        vm.prank(worker);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.WorkerWithdrawal(worker, FEE * 8 / 10);
        jobs.withdraw();
    }

    function test_excessOfARefusingPayerWaits() public {
        (Reenterer who, uint256 session,) = contractUser();
        who.setRefusing(true);
        who.act(address(jobs), FEE + 7, abi.encodeCall(IJobRegistry.submitJob, (session, PROMPT)));
        vm.assertEq(jobs.pendingRefund(address(who)), 7);
    }

    // ------------------------------------------------------------------- roles

    function test_roles() public {
        bytes memory notOwner =
            abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, address(this));
        vm.expectRevert(notOwner);
        jobs.setReputationRegistry(address(1));
        vm.expectRevert(notOwner);
        jobs.setPayees(address(1), address(2));
        vm.expectRevert(notOwner);
        jobs.unpause();
        vm.expectRevert(notOwner);
        jobs.sunsetGuardian();
        vm.expectRevert(abi.encodeWithSelector(IGuarded.NotGuardianOrOwner.selector, address(this)));
        jobs.pause();

        vm.prank(guardian);
        vm.expectEmit(address(jobs));
        emit PausableUpgradeable.Paused(guardian);
        jobs.pause();
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(OwnableUpgradeable.OwnableUnauthorizedAccount.selector, guardian));
        jobs.unpause();
        vm.startPrank(owner);
        vm.expectEmit(address(jobs));
        emit PausableUpgradeable.Unpaused(owner);
        jobs.unpause();
        vm.expectRevert(PausableUpgradeable.ExpectedPause.selector);
        jobs.unpause();
        vm.expectEmit(address(jobs));
        emit IGuarded.GuardianUpdated(guardian, address(0));
        jobs.sunsetGuardian();
        vm.expectRevert(IGuarded.GuardianAlreadySunset.selector);
        jobs.sunsetGuardian();
        vm.assertEq(jobs.guardian(), address(0));
        jobs.pause();
        jobs.unpause();
        vm.stopPrank();
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(IGuarded.NotGuardianOrOwner.selector, guardian));
        jobs.pause();
        vm.prank(address(0));
        vm.expectRevert(abi.encodeWithSelector(IGuarded.NotGuardianOrOwner.selector, address(0)));
        jobs.pause();
    }

    function test_ownerSettings() public {
        vm.startPrank(owner);
        vm.expectEmit(address(jobs));
        emit IJobRegistry.ReputationRegistryUpdated(address(7));
        jobs.setReputationRegistry(address(7));
        vm.assertEq(jobs.reputationRegistry(), address(7));
        vm.expectRevert(IJobRegistry.ZeroAddress.selector);
        jobs.setPayees(address(0), address(2));
        vm.expectRevert(IJobRegistry.ZeroAddress.selector);
        jobs.setPayees(address(1), address(0));
        vm.expectEmit(address(jobs));
        emit IJobRegistryExtra.PayeesUpdated(address(8), address(9));
        jobs.setPayees(address(8), address(9));
        vm.assertEq(jobs.treasury(), address(8));
        vm.assertEq(jobs.feePool(), address(9));
        vm.assertEq(jobs.workerRegistry(), address(workers));
        vm.assertEq(jobs.aiConfig(), address(config));
        vm.stopPrank();
    }

    function test_withoutReputationRegistryJobsSettle() public {
        vm.prank(owner);
        jobs.setReputationRegistry(address(0));
        uint256 job = completedJob();
        vm.warp(time() + 3601);
        jobs.releaseJob(job);
        vm.assertEq(stateOf(job), 6);
    }
}
