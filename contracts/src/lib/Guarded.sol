// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {OwnableUpgradeable} from "@openzeppelin/contracts-upgradeable/access/OwnableUpgradeable.sol";
import {UUPSUpgradeable} from "@openzeppelin/contracts-upgradeable/proxy/utils/UUPSUpgradeable.sol";
import {PausableUpgradeable} from "@openzeppelin/contracts-upgradeable/utils/PausableUpgradeable.sol";
import {IGuarded} from "../interfaces/IGuarded.sol";

/// @title Guarded
/// @notice What both registries are: upgradeable by their owner, pausable by the owner or by a guardian that may never
/// unpause and that can be removed for good. Its state is namespaced (ERC-7201), so it takes no slot of the registries'.
abstract contract Guarded is OwnableUpgradeable, PausableUpgradeable, UUPSUpgradeable, IGuarded {
    /// @custom:storage-location erc7201:lcai.storage.Guarded
    struct GuardedStorage {
        address guardian;
    }

    // keccak256(abi.encode(uint256(keccak256("lcai.storage.Guarded")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 private constant SLOT = 0x60c94072d2d8c419873d248948a895cf69d1f8a36de75155151abb83f8e0d100;

    modifier onlyGuardianOrOwner() {
        if (msg.sender != owner() && (msg.sender != guardian() || msg.sender == address(0))) {
            revert NotGuardianOrOwner(msg.sender);
        }
        _;
    }

    /// @custom:oz-upgrades-unsafe-allow constructor
    constructor() {
        _disableInitializers();
    }

    function __Guarded_init(address owner_, address guardian_) internal onlyInitializing {
        __Ownable_init(owner_);
        __Pausable_init();
        _guarded().guardian = guardian_;
        emit GuardianUpdated(address(0), guardian_);
    }

    function guardian() public view returns (address) {
        return _guarded().guardian;
    }

    /// @notice Removes the guardian for good; there is no way to name another.
    function sunsetGuardian() external onlyOwner {
        GuardedStorage storage $ = _guarded();
        address old = $.guardian;
        if (old == address(0)) revert GuardianAlreadySunset();
        $.guardian = address(0);
        emit GuardianUpdated(old, address(0));
    }

    function pause() external onlyGuardianOrOwner {
        _pause();
    }

    function unpause() external onlyOwner {
        _unpause();
    }

    function _authorizeUpgrade(address) internal override onlyOwner {}

    function _guarded() private pure returns (GuardedStorage storage $) {
        bytes32 slot = SLOT;
        assembly {
            $.slot := slot
        }
    }
}
