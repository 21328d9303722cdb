// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

/// @title TypedData
/// @notice EIP-712 structs that JobRegistry accepts. The domain is computed at each use, so a signature dies with the
/// chain id and the contract it was made for.
library TypedData {
    bytes32 internal constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 internal constant NAME_HASH = keccak256("LightChain JobRegistry");
    bytes32 internal constant VERSION_HASH = keccak256("1");
    bytes32 internal constant SESSION_AUTHORIZATION_TYPEHASH = keccak256(
        "SessionAuthorization(address user,bytes32 modelId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry)"
    );
    bytes32 internal constant SESSION_KEY_UPDATE_TYPEHASH = keccak256(
        "SessionKeyUpdate(uint256 sessionId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry)"
    );
    /// @dev `jobIndex` is the session's job count before this job, which makes a signature good for one job.
    bytes32 internal constant SUBMIT_JOB_TYPEHASH = keccak256(
        "SubmitJob(uint256 sessionId,uint256 jobIndex,bytes32 promptBlobHash,uint256 maxFee,uint256 expiry)"
    );
    /// @dev Names the prompt too: after a reorg the same job id can be another prompt.
    bytes32 internal constant COMPLETE_JOB_TYPEHASH = keccak256(
        "CompleteJob(uint256 jobId,uint256 sessionId,bytes32 promptBlobHash,bytes32 responseBlobHash,bytes32 responseCiphertextHash)"
    );

    function domainSeparator() internal view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)));
    }

    /// @notice Signer of a struct hash; malformed signatures and the malleable form revert with ECDSA errors.
    function signer(bytes32 structHash, bytes calldata signature) internal view returns (address) {
        return ECDSA.recover(MessageHashUtils.toTypedDataHash(domainSeparator(), structHash), signature);
    }
}
