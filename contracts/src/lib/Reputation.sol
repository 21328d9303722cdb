// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IReputationRegistry} from "../interfaces/IReputationRegistry.sol";

/// @title Reputation
/// @notice Tells the ReputationRegistry what happened. Settling must not depend on it: a missing or failing registry
/// is ignored and its gas is bounded. Callers put this before their other work, so that whoever starves it of gas
/// starves the whole settlement.
library Reputation {
    uint256 private constant GAS = 100_000;

    function record(IReputationRegistry registry, bytes4 what, address worker) internal {
        if (address(registry) == address(0)) return;
        (bool ignored,) = address(registry).call{gas: GAS}(abi.encodeWithSelector(what, worker));
        ignored;
    }
}
