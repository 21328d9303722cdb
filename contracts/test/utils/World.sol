// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {AIConfig} from "../../src/AIConfig.sol";
import {CanaryLedger} from "../../src/CanaryLedger.sol";
import {JobRegistry} from "../../src/JobRegistry.sol";
import {ReputationRegistry} from "../../src/ReputationRegistry.sol";
import {SessionManager} from "../../src/SessionManager.sol";
import {WorkerRegistry} from "../../src/WorkerRegistry.sol";
import {Roles} from "./Api.sol";
import {Vm} from "./Vm.sol";

/// @dev Every contract behind its proxy, as genesis deploys them. The tests create this from its artefact: importing the
/// contracts' code into each test would compile it once more for each.
contract World {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    AIConfig public config;
    WorkerRegistry public workers;
    JobRegistry public jobs;
    ReputationRegistry public reputation;
    SessionManager public manager;
    CanaryLedger public ledger;

    /// @dev A proxy is initialised by its constructor, so the registries' addresses are worked out beforehand.
    constructor(Roles memory r) {
        AIConfig configCode = new AIConfig();
        WorkerRegistry workersCode = new WorkerRegistry();
        JobRegistry jobsCode = new JobRegistry();
        uint256 n = vm.getNonce(address(this));
        address workersAt = vm.computeCreateAddress(address(this), n + 1);
        address jobsAt = vm.computeCreateAddress(address(this), n + 2);
        config = AIConfig(
            proxy(address(configCode), abi.encodeCall(AIConfig.initialize, (r.owner, r.dispatcher, r.disputer)))
        );
        workers = WorkerRegistry(
            proxy(
                address(workersCode),
                abi.encodeCall(
                    WorkerRegistry.initialize, (r.owner, address(config), jobsAt, r.treasury, r.guardian)
                )
            )
        );
        jobs = JobRegistry(
            proxy(
                address(jobsCode),
                abi.encodeCall(
                    JobRegistry.initialize,
                    (r.owner, workersAt, address(config), r.treasury, r.feePool, r.guardian)
                )
            )
        );
        require(address(workers) == workersAt && address(jobs) == jobsAt, "addresses");
        reputation = ReputationRegistry(
            proxy(
                address(new ReputationRegistry()),
                abi.encodeCall(ReputationRegistry.initialize, (r.owner, address(jobs)))
            )
        );
        manager = SessionManager(
            proxy(
                address(new SessionManager()),
                abi.encodeCall(
                    SessionManager.initialize,
                    (r.owner, address(jobs), address(workers), address(config), address(reputation))
                )
            )
        );
        ledger = CanaryLedger(
            proxy(
                address(new CanaryLedger()),
                abi.encodeCall(CanaryLedger.initialize, (r.owner, address(jobs), address(config)))
            )
        );
    }

    function proxy(address implementation, bytes memory data) private returns (address) {
        return address(new ERC1967Proxy(implementation, data));
    }
}
