// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title Push
/// @notice Transfers that neither revert nor copy what the recipient returns: a hostile recipient can refuse its own
/// money and do no more.
library Push {
    /// @dev Enough for a proxy wallet's receive function, too little to burn a keeper's block.
    uint256 internal constant GAS = 50_000;

    /// @notice Pushes with bounded gas, for transfers that somebody else's transaction depends on.
    function limited(address to, uint256 amount) internal returns (bool ok) {
        uint256 stipend = GAS;
        assembly ("memory-safe") {
            ok := call(stipend, to, amount, 0, 0, 0, 0)
        }
    }

    /// @notice Pushes with all gas, for transfers to whoever sent or meant this transaction.
    function unlimited(address to, uint256 amount) internal returns (bool ok) {
        assembly ("memory-safe") {
            ok := call(gas(), to, amount, 0, 0, 0, 0)
        }
    }
}
