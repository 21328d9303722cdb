// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IJobRegistry} from "../../src/interfaces/IJobRegistry.sol";
import {IConfig, IJobs, ISessions, IWorkers} from "./Api.sol";
import {Base} from "./Base.sol";

/// @dev A contract user that can act and refuses every transfer while told to.
contract Refuser {
    bool public refusing = true;

    function setRefusing(bool value) external {
        refusing = value;
    }

    receive() external payable {
        require(!refusing, "no");
    }
}

/// @dev Plays every actor. A call that the registries must refuse is made anyway where the refusal is the point; all
/// else is bounded to what may succeed, so that a revert is a finding (fail_on_revert).
contract Handler is Base {
    address[] public users;
    address[] public staff;
    mapping(address who => uint256) public noncesUsed;
    uint256 public paidIn;
    uint256 public paidOut;
    uint256 public calls;
    uint256 private _now;

    constructor(
        IConfig config_,
        IWorkers workers_,
        IJobs jobs_,
        ISessions manager_,
        address owner_,
        address guardian_,
        address disputer_,
        address keeper_,
        address[] memory users_,
        address[] memory staff_
    ) {
        config = config_;
        workers = workers_;
        jobs = jobs_;
        manager = manager_;
        owner = owner_;
        guardian = guardian_;
        disputer = disputer_;
        keeper = keeper_;
        users = users_;
        staff = staff_;
        _now = time();
    }

    function setUp() public override {}

    // Cheatcode time does not outlive a call of the fuzzer, so the handler keeps it.
    modifier timed() {
        vm.warp(_now);
        ++calls;
        _;
    }

    // Follows every wei through JobRegistry by what its balance did.
    modifier accounted() {
        uint256 before = address(jobs).balance;
        _;
        uint256 after_ = address(jobs).balance;
        if (after_ >= before) paidIn += after_ - before;
        else paidOut += before - after_;
    }

    function accounts() external view returns (address[] memory all) {
        all = new address[](8);
        for (uint256 i = 0; i < 3; ++i) {
            all[i] = users[i];
            all[3 + i] = staff[i];
        }
        all[6] = keeper;
        all[7] = disputer;
    }

    function staffIndex(address who) external view returns (uint256) {
        for (uint256 i = 0; i < 3; ++i) {
            if (staff[i] == who) return i;
        }
        revert("not staff");
    }

    // --------------------------------------------------------------------- time

    function wait(uint256 seconds_) external timed {
        uint256[6] memory steps = [uint256(1), 60, 95, 130, 3700, 7300];
        _now += steps[seconds_ % 6];
        if (seconds_ % 97 == 0) _now += 8 days;
    }

    // ----------------------------------------------------------------- sessions

    function createSession(uint256 u, uint256 w) external timed {
        address who = users[u % 3];
        address worker_ = staff[w % 3];
        if (jobs.paused() || !workers.isEligible(worker_, MODEL)) return;
        openSession(who, worker_);
        ++noncesUsed[who];
    }

    function closeSession(uint256 pick) external timed {
        (uint256 id, IJobRegistry.Session memory x) = _session(pick);
        if (id == 0 || pick % 8 != 0 || uint256(x.status) == 2) return;
        vm.prank(x.user);
        jobs.closeSession(id);
    }

    function reassign(uint256 pick) external timed {
        (uint256 id, IJobRegistry.Session memory x) = _session(pick);
        if (id == 0 || jobs.paused() || uint256(x.status) != 0 || x.reassignCount >= 3) return;
        vm.prank(x.user);
        try jobs.reassignSession(id) {} catch {
            return;
        }
        IJobRegistry.Session memory y = jobs.getSession(id);
        vm.assertTrue(workers.isEligible(y.worker, MODEL), "reassigned to an ineligible worker");
        bytes memory key = wrappedKey(3);
        uint256 expiry = time() + 60;
        bytes32 structHash = keccak256(
            abi.encode(
                keccak256(
                    "SessionKeyUpdate(uint256 sessionId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry)"
                ),
                id,
                y.worker,
                keccak256(key),
                keccak256(key),
                jobs.nonce(x.user),
                expiry
            )
        );
        bytes memory sig = signature(DISPATCHER_KEY, typed(structHash));
        vm.prank(x.user);
        jobs.updateSessionKey(id, key, key, sig, expiry);
        ++noncesUsed[x.user];
    }

    /// @dev From the request to the session, whoever may serve it.
    function sortition(uint256 u, uint256 w) external timed {
        address who = users[u % 3];
        address worker_ = staff[w % 3];
        vm.prank(who);
        uint256 id = manager.requestSession(MODEL, time() + 3600);
        bool may = workers.isEligible(worker_, MODEL) && jobs.openJobCount(worker_) < config.getMaxConcurrentJobs();
        bool adopts = !jobs.paused();
        // Back afterwards: the stake history knows no block to come.
        uint256 now_ = height();
        vm.roll(now_ + 2 + config.getClaimWindowBlocks());
        vm.prank(worker_);
        try manager.claimSession(id) {
            vm.assertTrue(may, "claimed by a worker that may not");
        } catch {
            vm.assertFalse(may, "refused a good claim");
        }
        vm.prank(who);
        try manager.provideSessionKey(id, wrappedKey(4), wrappedKey(5)) {
            vm.assertTrue(may && adopts, "adopted what it had to refuse");
        } catch {
            vm.assertFalse(may && adopts, "refused a claimed session");
        }
        vm.roll(now_);
    }

    // --------------------------------------------------------------------- jobs

    /// @dev Two jobs in one transaction, both or none.
    function submitBatch(uint256 pick, bool prepaid, uint96 excess) external timed accounted {
        (uint256 id, IJobRegistry.Session memory x) = _session(pick);
        if (id == 0) return;
        uint256 fees = 2 * config.calculateJobFee(MODEL);
        if (prepaid && jobs.prepaidBalanceOf(x.user) < fees) return;
        uint256 value = prepaid ? 0 : fees + excess;
        vm.deal(x.user, value);
        bool may = _maySubmit(x) && jobs.openJobCount(x.worker) + 2 <= config.getMaxConcurrentJobs();
        bytes32[] memory hashes = new bytes32[](1);
        hashes[0] = PROMPT;
        vm.blobhashes(hashes);
        uint256[] memory ids = new uint256[](2);
        uint256[] memory limits = new uint256[](2);
        (ids[0], ids[1]) = (id, id);
        (limits[0], limits[1]) = (type(uint256).max, type(uint256).max);
        vm.prank(x.user);
        try jobs.submitJobsWithBlobs{value: value}(ids, new uint256[](2), limits, limits, new bytes[](2)) {
            vm.assertTrue(may, "took jobs it had to refuse");
        } catch {
            vm.assertFalse(may, "refused good jobs");
        }
    }

    function submitPaid(uint256 pick, uint96 excess) external timed accounted {
        (uint256 id, IJobRegistry.Session memory x) = _session(pick);
        if (id == 0) return;
        uint256 fee = config.calculateJobFee(MODEL);
        vm.deal(x.user, fee + excess);
        bool may = _maySubmit(x);
        vm.prank(x.user);
        try jobs.submitJob{value: fee + excess}(id, PROMPT) {
            vm.assertTrue(may, "took a job it had to refuse");
        } catch {
            vm.assertFalse(may, "refused a good job");
        }
    }

    function submitPrepaid(uint256 pick) external timed accounted {
        (uint256 id, IJobRegistry.Session memory x) = _session(pick);
        if (id == 0 || jobs.prepaidBalanceOf(x.user) < config.calculateJobFee(MODEL)) return;
        bool may = _maySubmit(x);
        vm.prank(x.user);
        try jobs.submitJobOnBehalf(x.user, id, PROMPT) {
            vm.assertTrue(may, "took a job it had to refuse");
        } catch {
            vm.assertFalse(may, "refused a good job");
        }
    }

    function acknowledge_(uint256 pick) external timed {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, 0);
        if (id == 0 || time() > j.deadline) return;
        vm.prank(j.worker);
        jobs.acknowledgeJob(id);
    }

    function complete_(uint256 pick) external timed {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, 1);
        if (id == 0 || time() > j.deadline) return;
        vm.prank(j.worker);
        jobs.completeJob(id, RESPONSE, keccak256(abi.encode(id)));
    }

    function timeOut(uint256 pick) external timed accounted {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, pick % 2);
        if (id == 0 || time() <= j.deadline) return;
        vm.prank(pick % 3 == 0 ? users[2] : keeper);
        jobs.claimTimeout(id);
    }

    function settleStuck(uint256 pick) external timed accounted {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, pick % 2);
        if (id == 0 || time() < j.deadline + config.getResolutionTimeout()) return;
        vm.prank(keeper);
        jobs.settleStuckJob(id);
    }

    function release(uint256 pick) external timed accounted {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, pick % 3 == 0 ? 5 : 2);
        if (id == 0) return;
        bool may = j.state == IJobRegistry.JobState.Resolved
            ? j.escrowedFee != 0
            : time() > j.completedAt + config.getDisputeWindow();
        vm.prank(pick % 2 == 0 ? keeper : j.worker);
        try jobs.releaseJob(id) {
            vm.assertTrue(may, "released early");
        } catch {
            vm.assertFalse(may, "not released");
        }
    }

    // ----------------------------------------------------------------- disputes

    function dispute(uint256 pick, uint96 excess) external timed accounted {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, 2);
        if (id == 0 || time() > j.completedAt + config.getDisputeWindow()) return;
        address filer = pick % 2 == 0 ? disputer : jobs.getSession(j.sessionId).user;
        vm.deal(filer, j.escrowedFee + excess);
        vm.prank(filer);
        jobs.disputeJob{value: j.escrowedFee + excess}(id);
    }

    function resolve(uint256 pick, bool guilty) external timed accounted {
        (uint256 id,) = _job(pick, 4);
        if (id == 0) return;
        vm.prank(disputer);
        jobs.resolveDispute(id, guilty, RESPONSE, pick % 10_001);
    }

    function silence(uint256 pick) external timed accounted {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, 4);
        if (id == 0 || time() <= j.disputeCreatedAt + config.getResolutionTimeout()) return;
        vm.prank(keeper);
        jobs.claimTimeout(id);
    }

    function mismatch(uint256 pick) external timed accounted {
        (uint256 id, IJobRegistry.Job memory j) = _job(pick, 2);
        if (id == 0 || pick % 4 != 0) return;
        bytes memory other = "another answer";
        bytes32 inner = keccak256(abi.encode(block.chainid, address(jobs), id, j.sessionId, other));
        uint256 key = j.worker == worker ? WORKER_KEY : j.worker == worker2 ? WORKER2_KEY : 0xa3;
        bytes memory sig = signature(key, keccak256(abi.encodePacked("\x19Ethereum Signed Message:\n32", inner)));
        jobs.disputeResponseMismatch(id, other, sig);
    }

    // -------------------------------------------------------------------- money

    function deposit(uint256 u, uint96 amount) external timed accounted {
        address who = users[u % 3];
        if (jobs.paused() || amount == 0) return;
        vm.deal(who, amount);
        vm.prank(who);
        jobs.deposit{value: amount}();
    }

    /// @dev Never refused to somebody with a balance, paused or not.
    function withdrawPrepaid(uint256 u, uint256 amount) external timed accounted {
        address who = users[u % 2];
        amount = amount % (jobs.prepaidBalanceOf(who) + 1);
        vm.prank(who);
        jobs.withdrawBalance(amount);
    }

    function withdrawFees(uint256 w) external timed accounted {
        address who = w % 4 == 3 ? keeper : staff[w % 4];
        if (jobs.workerBalance(who) == 0) return;
        vm.prank(who);
        jobs.withdraw();
    }

    function claimRefund(uint256 u) external timed accounted {
        address who = users[u % 3];
        if (jobs.pendingRefund(who) == 0) return;
        if (u % 3 == 2) Refuser(payable(who)).setRefusing(false);
        vm.prank(who);
        jobs.claimRefund();
        if (u % 3 == 2) Refuser(payable(who)).setRefusing(true);
    }

    // ------------------------------------------------------------------- stakes

    function topUp(uint256 w, uint96 amount) external timed {
        address who = staff[w % 3];
        if (workers.paused()) return;
        amount %= 1e24;
        vm.deal(who, amount);
        vm.prank(who);
        workers.topUpStake{value: amount}();
    }

    function withdrawStake(uint256 w, uint256 amount) external timed {
        address who = staff[w % 3];
        uint256 stake = workers.getWorkerStake(who);
        uint256 min = config.getMinWorkerStake();
        if (stake < min) return;
        vm.prank(who);
        workers.withdrawStake(amount % (stake - min + 1));
    }

    /// @dev Leaving takes the whole stake out, coming back brings a new one.
    function leaveAndJoin(uint256 w) external timed {
        address who = staff[w % 3];
        if (workers.paused() || workers.getActiveJobCount(who) != 0) return;
        if (workers.isWorkerSuspended(who) && time() < workers.getSuspendedUntil(who)) return;
        uint256 before = who.balance + workers.getWorkerStake(who);
        vm.prank(who);
        workers.deregisterWorker();
        vm.assertEq(who.balance, before, "the whole stake");
        uint256 min = config.getMinWorkerStake();
        join(who, 0xe1 + w % 3, min > MIN_STAKE ? min : MIN_STAKE);
    }

    function reinstate(uint256 w) external timed {
        address who = staff[w % 3];
        if (workers.paused() || !workers.isWorkerSuspended(who) || time() < workers.getSuspendedUntil(who)) {
            return;
        }
        vm.prank(who);
        workers.reinstate();
    }

    function withdrawSlashed() external timed {
        if (workers.getSlashedFunds() != 0) workers.withdrawSlashedFunds();
    }

    // -------------------------------------------------------------------- owner

    function setFee(uint96 fee) external timed {
        vm.prank(owner);
        config.setModelFee(MODEL, 1 + uint256(fee) % 1 ether);
    }

    function setSplit(uint16 a, uint16 b) external timed {
        uint256 x = a % 10_001;
        uint256 y = b % (10_001 - x);
        vm.prank(owner);
        config.setFeeDistribution(x, y, 10_000 - x - y);
    }

    function setMinStake(uint96 stake) external timed {
        vm.prank(owner);
        config.setMinWorkerStake(1 + uint256(stake) % (2 * MIN_STAKE));
        for (uint256 i = 0; i < 3; ++i) {
            workers.syncEligibility(staff[i]);
        }
    }

    function togglePause(uint256 what) external timed {
        if (what % 4 != 0) return;
        bool paused = jobs.paused();
        vm.startPrank(paused ? owner : guardian);
        if (paused) {
            jobs.unpause();
            workers.unpause();
        } else {
            jobs.pause();
            workers.pause();
        }
        vm.stopPrank();
    }

    // ------------------------------------------------------------------ helpers

    function _maySubmit(IJobRegistry.Session memory x) private view returns (bool) {
        return !jobs.paused() && uint256(x.status) == 0
            && time() <= x.lastActivityAt + config.getSessionInactivityTimeout()
            && workers.isEligible(x.worker, MODEL) && jobs.openJobCount(x.worker) < config.getMaxConcurrentJobs();
    }

    function _session(uint256 pick) private view returns (uint256 id, IJobRegistry.Session memory x) {
        uint256 n = jobs.sessionCount();
        if (n == 0) return (0, x);
        // Mostly recent ones: old sessions are idle or closed.
        id = n - (pick / 7) % (n < 6 ? n : 6);
        x = jobs.getSession(id);
    }

    /// @dev A job in the wanted state, looked for from a random start.
    function _job(uint256 pick, uint256 state) private view returns (uint256, IJobRegistry.Job memory j) {
        uint256 n = jobs.jobCount();
        for (uint256 i = 0; i < n; ++i) {
            uint256 id = 1 + (pick / 11 + i) % n;
            j = jobs.getJob(id);
            if (uint256(j.state) == state) return (id, j);
        }
        return (0, j);
    }
}
