// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title The guardian's part of the live registry interfaces
interface IGuarded {
    event GuardianUpdated(address indexed oldGuardian, address indexed newGuardian);

    error GuardianAlreadySunset();
    error NotGuardianOrOwner(address caller);

    function guardian() external view returns (address);
    function pause() external;
    function sunsetGuardian() external;
    function unpause() external;
}
