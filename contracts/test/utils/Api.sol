// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IAIConfig} from "../../src/interfaces/IAIConfig.sol";
import {ICanaryLedger} from "../../src/interfaces/ICanaryLedger.sol";
import {IJobRegistry} from "../../src/interfaces/IJobRegistry.sol";
import {IJobRegistryExtra} from "../../src/interfaces/IJobRegistryExtra.sol";
import {IReputationRegistry} from "../../src/interfaces/IReputationRegistry.sol";
import {ISessionManager} from "../../src/interfaces/ISessionManager.sol";
import {ISessionManagerExtra} from "../../src/interfaces/ISessionManagerExtra.sol";
import {IWorkerRegistry} from "../../src/interfaces/IWorkerRegistry.sol";
import {IWorkerRegistryExtra} from "../../src/interfaces/IWorkerRegistryExtra.sol";

// The contracts as a caller sees them. Tests know these only, so that a change of a contract does not compile every test
// again, which is what makes trying mutants affordable.

interface IOwned {
    function owner() external view returns (address);
    function transferOwnership(address newOwner) external;
    function renounceOwnership() external;
    function upgradeToAndCall(address newImplementation, bytes calldata data) external payable;
    function proxiableUUID() external view returns (bytes32);
    function UPGRADE_INTERFACE_VERSION() external view returns (string memory);
}

interface IPaused {
    function paused() external view returns (bool);
}

interface IConfig is IAIConfig, IOwned {}

interface IJobs is IJobRegistry, IJobRegistryExtra, IOwned, IPaused {}

interface IWorkers is IWorkerRegistry, IWorkerRegistryExtra, IOwned, IPaused {}

interface ISessions is ISessionManager, ISessionManagerExtra, IOwned {}

interface IReputations is IReputationRegistry, IOwned {}

interface ILedger is ICanaryLedger, IOwned {}

struct Roles {
    address owner;
    address dispatcher;
    address disputer;
    address treasury;
    address feePool;
    address guardian;
}
