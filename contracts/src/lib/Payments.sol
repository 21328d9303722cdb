// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IJobRegistry} from "../interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "../interfaces/IJobRegistryExtra.sol";
import {JobStorage} from "./JobStorage.sol";
import {Push} from "./Push.sol";

/// @title Payments
/// @notice The ways money leaves escrow. None of them can revert because of a recipient.
library Payments {
    /// @notice Pushes; what the recipient refuses waits in pendingRefund.
    function push(JobStorage.State storage s, address to, uint256 amount) internal {
        if (amount == 0 || Push.limited(to, amount)) return;
        s.pendingRefunds[to] += amount;
        emit IJobRegistry.TransferFailed(to, amount);
        emit IJobRegistry.RefundEscrowed(to, amount);
    }

    /// @notice Adds to what `withdraw` pays: worker shares, forfeited bonds, keeper bounties of releases.
    function credit(JobStorage.State storage s, address to, uint256 amount) internal {
        JobStorage.WorkerAccount storage account = s.workers[to];
        account.balance = SafeCast.toUint128(account.balance + amount);
    }

    /// @notice Gives the escrow of a job back to its user, on the way it came: into the prepaid balance or as coin.
    function refund(JobStorage.State storage s, uint256 jobId, JobStorage.Job storage j)
        internal
        returns (uint256 amount)
    {
        amount = j.escrowedFee;
        address user = s.sessions[j.sessionId].user;
        j.escrowedFee = 0;
        j.refunded = true;
        emit IJobRegistryExtra.JobRefunded(jobId, user, amount);
        if (j.prepaid) {
            s.prepaid[user] += amount;
            emit IJobRegistry.RefundCreditedToBalance(user, jobId, amount);
        } else {
            push(s, user, amount);
        }
    }

    /// @notice Pays a dispute's bond out of escrow, back to the filer or into the worker's balance.
    function payBond(JobStorage.State storage s, uint256 jobId, address to, bool forfeited) internal {
        JobStorage.Dispute storage d = s.disputes[jobId];
        uint256 bond = d.bond;
        if (bond == 0) return;
        d.bond = 0;
        emit IJobRegistryExtra.DisputeBondPaid(jobId, to, bond);
        if (forfeited) credit(s, to, bond);
        else push(s, to, bond);
    }
}
