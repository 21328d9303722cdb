// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title What SessionManager adds to the live interface
interface ISessionManagerExtra {
    /// @notice A request that only workers with all these capability bits may claim.
    event CapabilitiesRequired(uint256 indexed reqId, uint256 mask);

    error ExpiryOutOfBounds(uint256 expiry, uint256 min, uint256 max);
    error ModelDisabled(bytes32 modelId);

    function requestCount() external view returns (uint256);
    function seedOf(uint256 reqId) external view returns (bytes32);
}
