// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title Draw
/// @notice The dispatcher's draw, so that a contract can repeat what a node did; `draw` in the Rust crate primitives
/// is the same function and both are held to the same vectors. Also the sortition's ticket, which needs no list of
/// candidates.
library Draw {
    bytes32 internal constant DOMAIN = keccak256("lcai draw v1");
    bytes32 internal constant SORTITION_DOMAIN = keccak256("lcai sortition v1");
    /// @dev Fraction bits of `log2Inverse`.
    uint256 internal constant FRACTION = 32;

    /// @dev One array per member, in ascending order of worker.
    struct Candidates {
        address[] workers;
        uint256[] stakes;
        uint256[] stakeCaps;
        uint64[] reputations;
    }

    /// @notice min(stake, cap, 2^128 - 1) times reputation; below 2^192.
    function weight(uint256 stake, uint256 stakeCap, uint64 reputation) internal pure returns (uint256) {
        if (stake > stakeCap) stake = stakeCap;
        if (stake > type(uint128).max) stake = type(uint128).max;
        return stake * reputation;
    }

    function seed(bytes32 blockHash, address user, uint256 nonce, bytes32 modelId) internal pure returns (bytes32) {
        return keccak256(abi.encode(DOMAIN, blockHash, user, nonce, modelId));
    }

    /// @notice The first candidate whose cumulative weight exceeds seed mod total; zero when none has weight.
    function draw(bytes32 seed_, Candidates memory c) internal pure returns (address) {
        uint256 n = c.workers.length;
        uint256 total;
        for (uint256 i = 0; i < n; ++i) {
            total += weight(c.stakes[i], c.stakeCaps[i], c.reputations[i]);
        }
        if (total == 0) return address(0);
        uint256 point = uint256(seed_) % total;
        uint256 cumulative;
        for (uint256 i = 0; i < n; ++i) {
            cumulative += weight(c.stakes[i], c.stakeCaps[i], c.reputations[i]);
            if (cumulative > point) return c.workers[i];
        }
        return address(0);
    }

    /// @notice Minus log2 of a worker's uniform ticket, with 32 fraction bits: exponentially distributed. Divided by
    /// the worker's weight it is an arrival time, and the first arrival is a draw by weight (Efraimidis and Spirakis).
    function ticket(bytes32 seed_, uint256 reqId, address worker) internal pure returns (uint256) {
        bytes32 hash = keccak256(abi.encode(SORTITION_DOMAIN, seed_, reqId, worker));
        return log2Inverse(uint256(hash) >> 128 | 1);
    }

    /// @notice 128 - log2(u) for 0 < u < 2^128, rounded up to 32 fraction bits.
    function log2Inverse(uint256 u) internal pure returns (uint256) {
        uint256 whole;
        // Highest set bit by halving.
        for (uint256 step = 64; step != 0; step >>= 1) {
            if (u >> (whole + step) != 0) whole += step;
        }
        uint256 log = whole << FRACTION;
        // Mantissa in [1, 2) with 127 fraction bits; squaring it shifts out one bit of the logarithm.
        uint256 m = u << (127 - whole);
        for (uint256 bit = FRACTION; bit != 0; --bit) {
            m = m * m >> 127;
            if (m >> 128 != 0) {
                m >>= 1;
                log |= 1 << (bit - 1);
            }
        }
        return (128 << FRACTION) - log;
    }
}
