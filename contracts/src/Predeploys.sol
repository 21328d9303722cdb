// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

// Not ours, but compiled with our settings because genesis deploys them.
import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
