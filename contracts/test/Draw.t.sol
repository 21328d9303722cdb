// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {Draw} from "../src/lib/Draw.sol";
import {TypedData} from "../src/lib/TypedData.sol";
import {Base} from "./utils/Base.sol";

/// @dev The library at any address, for vectors of other contracts and chains.
contract TypedDataProbe {
    function domainSeparator() external view returns (bytes32) {
        return TypedData.domainSeparator();
    }
}

contract DrawTest is Base {
    string internal constant DIR = "../crates/primitives/testdata/";

    function setUp() public override {}

    /// @dev The vectors of the Rust crate, to the wei.
    function test_vectorsSharedWithRust() public view {
        string memory json = vm.readFile(string.concat(DIR, "draw.json"));
        uint256 count = vm.parseJsonUint(json, ".count");
        vm.assertGe(count, 12);
        for (uint256 i = 0; i < count; ++i) {
            string memory path = string.concat(".vectors[", vm.toString(i), "].");
            Draw.Candidates memory c = candidates(json, path);
            bytes32 seed = Draw.seed(
                vm.parseJsonBytes32(json, string.concat(path, "blockHash")),
                vm.parseJsonAddress(json, string.concat(path, "user")),
                vm.parseJsonUint(json, string.concat(path, "nonce")),
                vm.parseJsonBytes32(json, string.concat(path, "modelId"))
            );
            vm.assertEq(seed, vm.parseJsonBytes32(json, string.concat(path, "seed")));
            uint256 total;
            for (uint256 k = 0; k < c.workers.length; ++k) {
                total += Draw.weight(c.stakes[k], c.stakeCaps[k], c.reputations[k]);
            }
            vm.assertEq(total, vm.parseJsonUint(json, string.concat(path, "total")));
            vm.assertEq(Draw.draw(seed, c), vm.parseJsonAddress(json, string.concat(path, "drawn")));
        }
    }

    /// @dev As in the file, put into ascending order of worker.
    function candidates(string memory json, string memory path) internal pure returns (Draw.Candidates memory c) {
        c.workers = vm.parseJsonAddressArray(json, string.concat(path, "workers"));
        c.stakes = vm.parseJsonUintArray(json, string.concat(path, "stakes"));
        c.stakeCaps = vm.parseJsonUintArray(json, string.concat(path, "stakeCaps"));
        uint256[] memory scores = vm.parseJsonUintArray(json, string.concat(path, "reputations"));
        uint256 n = c.workers.length;
        c.reputations = new uint64[](n);
        for (uint256 i = 0; i < n; ++i) {
            c.reputations[i] = uint64(scores[i]);
        }
        for (uint256 i = 1; i < n; ++i) {
            for (uint256 k = i; k > 0 && c.workers[k] < c.workers[k - 1]; --k) {
                (c.workers[k], c.workers[k - 1]) = (c.workers[k - 1], c.workers[k]);
                (c.stakes[k], c.stakes[k - 1]) = (c.stakes[k - 1], c.stakes[k]);
                (c.stakeCaps[k], c.stakeCaps[k - 1]) = (c.stakeCaps[k - 1], c.stakeCaps[k]);
                (c.reputations[k], c.reputations[k - 1]) = (c.reputations[k - 1], c.reputations[k]);
            }
        }
    }

    /// @dev 10,000 workers in ten classes of different weight; 20,000 draws; nine degrees of freedom.
    function test_tenThousandWorkersFollowTheirWeights() public view {
        uint256 n = 10_000;
        Draw.Candidates memory c = Draw.Candidates(
            new address[](n), new uint256[](n), new uint256[](n), new uint64[](n)
        );
        uint256[] memory cumulative = new uint256[](n);
        uint256[10] memory classWeight;
        uint256 total;
        for (uint256 i = 0; i < n; ++i) {
            c.workers[i] = address(uint160(i + 1));
            c.stakes[i] = MIN_STAKE * (1 + i % 10);
            c.stakeCaps[i] = MIN_STAKE * 8;
            c.reputations[i] = uint64(5000 + 300 * (i % 10));
            uint256 w = Draw.weight(c.stakes[i], c.stakeCaps[i], c.reputations[i]);
            classWeight[i % 10] += w;
            total += w;
            cumulative[i] = total;
        }
        uint256 draws = 20_000;
        uint256[10] memory hits;
        for (uint256 d = 0; d < draws; ++d) {
            bytes32 seed = Draw.seed(keccak256("block"), user, d, MODEL);
            uint256 path = search(cumulative, uint256(seed) % total);
            ++hits[path % 10];
            // The search stands in for the walk; now and then the walk itself.
            if (d % 2000 == 0) vm.assertEq(Draw.draw(seed, c), c.workers[path]);
        }
        vm.assertLt(chiSquare(hits, classWeight, total, draws), 27_877, "p < 0.001");
    }

    /// @dev The first arrival of sortition is a draw by weight too.
    function test_firstTicketFollowsWeights() public view {
        uint256[10] memory weights = [uint256(1), 1, 2, 2, 3, 3, 4, 5, 9, 10];
        uint256 draws = 1000;
        uint256[10] memory hits;
        for (uint256 d = 0; d < draws; ++d) {
            uint256 best = type(uint256).max;
            uint256 winner;
            for (uint256 i = 0; i < 10; ++i) {
                uint256 arrival = (Draw.ticket(keccak256("seed"), d, address(uint160(i))) << 64) / weights[i];
                if (arrival < best) (best, winner) = (arrival, i);
            }
            ++hits[winner];
        }
        vm.assertLt(chiSquare(hits, weights, 40, draws), 27_877, "p < 0.001");
    }

    /// @dev In thousandths.
    function chiSquare(uint256[10] memory hits, uint256[10] memory weights, uint256 total, uint256 draws)
        internal
        view
        returns (uint256 x)
    {
        for (uint256 i = 0; i < 10; ++i) {
            uint256 expected = draws * weights[i] * 1e6 / total;
            uint256 seen = hits[i] * 1e6;
            uint256 diff = seen > expected ? seen - expected : expected - seen;
            x += diff * diff / expected / 1000;
            print("drawn   ", hits[i]);
            print("expected", expected / 1e6);
        }
        print("chi-square (9 degrees of freedom, thousandths)", x);
    }

    function search(uint256[] memory cumulative, uint256 point) internal pure returns (uint256 low) {
        uint256 high = cumulative.length - 1;
        while (low < high) {
            uint256 mid = (low + high) / 2;
            if (cumulative[mid] > point) high = mid;
            else low = mid + 1;
        }
    }

    function test_log2Inverse() public pure {
        vm.assertEq(Draw.log2Inverse(1), 128 << 32);
        vm.assertEq(Draw.log2Inverse(1 << 127), 1 << 32);
        vm.assertEq(Draw.log2Inverse(3 << 100), (128 - 101) * 2 ** 32 - 2_512_394_809);
        vm.assertLe(Draw.log2Inverse(type(uint128).max), 1);
    }

    function testFuzz_log2InverseFalls(uint128 a, uint128 b) public pure {
        vm.assume(a != 0 && b != 0);
        if (a > b) (a, b) = (b, a);
        vm.assertGe(Draw.log2Inverse(a), Draw.log2Inverse(b));
    }

    // ------------------------------------------------------------------ EIP-712

    function domain(string memory json, string memory path) internal returns (bytes32) {
        address registry = vm.parseJsonAddress(json, string.concat(path, "jobRegistry"));
        vm.etch(registry, address(new TypedDataProbe()).code);
        vm.chainId(vm.parseJsonUint(json, string.concat(path, "chainId")));
        bytes32 separator = TypedDataProbe(registry).domainSeparator();
        vm.assertEq(separator, vm.parseJsonBytes32(json, string.concat(path, "domainSeparator")));
        return separator;
    }

    function test_eip712VectorsSharedWithRust() public {
        string memory json = vm.readFile(string.concat(DIR, "eip712.json"));
        uint256 count = vm.parseJsonUint(json, ".submitJobCount");
        vm.assertGt(count, 0);
        for (uint256 i = 0; i < count; ++i) {
            string memory path = string.concat(".submitJobs[", vm.toString(i), "].");
            string memory m = string.concat(path, "message.");
            domain(json, path);
            bytes32 structHash = keccak256(
                abi.encode(
                    TypedData.SUBMIT_JOB_TYPEHASH,
                    vm.parseJsonUint(json, string.concat(m, "sessionId")),
                    vm.parseJsonUint(json, string.concat(m, "jobIndex")),
                    vm.parseJsonBytes32(json, string.concat(m, "promptBlobHash")),
                    vm.parseJsonUint(json, string.concat(m, "maxFee")),
                    vm.parseJsonUint(json, string.concat(m, "expiry"))
                )
            );
            vm.assertEq(structHash, vm.parseJsonBytes32(json, string.concat(path, "structHash")));
        }
        count = vm.parseJsonUint(json, ".completeJobCount");
        vm.assertGt(count, 0);
        for (uint256 i = 0; i < count; ++i) {
            string memory path = string.concat(".completeJobs[", vm.toString(i), "].");
            string memory m = string.concat(path, "message.");
            domain(json, path);
            bytes32 structHash = keccak256(
                abi.encode(
                    TypedData.COMPLETE_JOB_TYPEHASH,
                    vm.parseJsonUint(json, string.concat(m, "jobId")),
                    vm.parseJsonUint(json, string.concat(m, "sessionId")),
                    vm.parseJsonBytes32(json, string.concat(m, "promptBlobHash")),
                    vm.parseJsonBytes32(json, string.concat(m, "responseBlobHash")),
                    vm.parseJsonBytes32(json, string.concat(m, "responseCiphertextHash"))
                )
            );
            vm.assertEq(structHash, vm.parseJsonBytes32(json, string.concat(path, "structHash")));
        }
    }

    function test_sessionVectorsSharedWithRust() public {
        string memory json = vm.readFile(string.concat(DIR, "eip712.json"));
        for (uint256 i = 0; i < vm.parseJsonUint(json, ".sessionAuthorizationCount"); ++i) {
            string memory path = string.concat(".sessionAuthorizations[", vm.toString(i), "].");
            domain(json, path);
            bytes memory head = abi.encode(
                TypedData.SESSION_AUTHORIZATION_TYPEHASH,
                vm.parseJsonAddress(json, string.concat(path, "user")),
                vm.parseJsonBytes32(json, string.concat(path, "modelId"))
            );
            checkSession(json, path, head);
        }
        for (uint256 i = 0; i < vm.parseJsonUint(json, ".sessionKeyUpdateCount"); ++i) {
            string memory path = string.concat(".sessionKeyUpdates[", vm.toString(i), "].");
            domain(json, path);
            bytes memory head = abi.encode(
                TypedData.SESSION_KEY_UPDATE_TYPEHASH, vm.parseJsonUint(json, string.concat(path, "sessionId"))
            );
            checkSession(json, path, head);
        }
    }

    function checkSession(string memory json, string memory path, bytes memory head) internal pure {
        bytes memory tail = abi.encode(
            vm.parseJsonAddress(json, string.concat(path, "worker")),
            keccak256(vm.parseJsonBytes(json, string.concat(path, "encWorkerKey"))),
            keccak256(vm.parseJsonBytes(json, string.concat(path, "encDisputerKey"))),
            vm.parseJsonUint(json, string.concat(path, "nonce")),
            vm.parseJsonUint(json, string.concat(path, "expiry"))
        );
        vm.assertEq(
            keccak256(bytes.concat(head, tail)), vm.parseJsonBytes32(json, string.concat(path, "structHash"))
        );
    }
}
