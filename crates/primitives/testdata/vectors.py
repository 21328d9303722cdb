"""Makes eip712.json and draw.json with other libraries than the crate uses.

    pip install eth-account eth-abi pycryptodome && python3 vectors.py

Flat arrays, so that forge's vm.parseJson* reads them: .vectors[i].workers, .stakes, ...; numbers above 2^53 are hex strings.
"""
import json
from pathlib import Path

from Crypto.Hash import keccak
from eth_abi import encode
from eth_account.messages import _hash_eip191_message, encode_typed_data


def k(data):
    return keccak.new(digest_bits=256, data=data).digest()


def h(data):
    return "0x" + data.hex()


def addr(byte):
    return "0x" + f"{byte:02x}" * 20


HERE = Path(__file__).parent
DOMAIN_TYPES = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
TYPES = {
    "SessionAuthorization": "address user,bytes32 modelId,address worker,bytes32 encWorkerKeyHash,"
    "bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry",
    "SessionKeyUpdate": "uint256 sessionId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,"
    "uint256 nonce,uint256 expiry",
    "SubmitJob": "uint256 sessionId,uint256 jobIndex,bytes32 promptBlobHash,uint256 maxFee,uint256 expiry",
    "CompleteJob": "uint256 jobId,uint256 sessionId,bytes32 promptBlobHash,bytes32 responseBlobHash,"
    "bytes32 responseCiphertextHash",
    "Heartbeat": "address worker,uint64 sentAt,uint32 activeJobs,uint32 maxJobs,bytes32 modelsHash,uint8 status,"
    "uint64 sequence",
}


def typed(name, chain, registry, message):
    members = [m.split(" ") for m in TYPES[name].split(",")]
    signable = encode_typed_data(
        domain_data={
            "name": "LightChain JobRegistry",
            "version": "1",
            "chainId": chain,
            "verifyingContract": registry,
        },
        message_types={name: [{"type": t, "name": n} for t, n in members]},
        message_data=message,
    )
    # The library and the formula of the EIP must agree before anything is written.
    struct = k(encode(["bytes32"] + [t for t, _ in members], [k(f"{name}({TYPES[name]})".encode())] + [message[n] for _, n in members]))
    separator = k(
        encode(
            ["bytes32", "bytes32", "bytes32", "uint256", "address"],
            [k(DOMAIN_TYPES.encode()), k(b"LightChain JobRegistry"), k(b"1"), chain, registry],
        )
    )
    signing = k(b"\x19\x01" + separator + struct)
    assert signing == bytes(_hash_eip191_message(signable))
    return {"domainSeparator": h(separator), "structHash": h(struct), "signingHash": h(signing)}


def eip712():
    wrapped = bytes(range(125))
    cases = [
        (8200, addr(0x11), addr(0x22), "llama3-8b", addr(0x33), wrapped, wrapped[::-1], 0, 1_700_000_120),
        (48221, "0x9A9f2CCfdE556A7E9Ff0848998Aa4a0CFD8863AE", addr(0xAB), "gpt-oss:20b", addr(0xCD), wrapped, b"", 7, 2**63),
        (1, addr(0xFF), addr(0), "", addr(0), b"", b"", 2**256 - 1, 0),
    ]
    authorizations, updates = [], []
    for i, (chain, registry, user, model, worker, ew, ed, nonce, expiry) in enumerate(cases):
        keys = {"encWorkerKeyHash": k(ew), "encDisputerKeyHash": k(ed), "nonce": nonce, "expiry": expiry}
        plain = {
            "chainId": chain,
            "jobRegistry": registry,
            "worker": worker,
            "encWorkerKey": h(ew),
            "encDisputerKey": h(ed),
            "nonce": hex(nonce),
            "expiry": expiry,
        }
        message = {"user": user, "modelId": k(model.encode()), "worker": worker} | keys
        authorizations.append(
            plain | {"user": user, "modelId": h(k(model.encode()))} | typed("SessionAuthorization", chain, registry, message)
        )
        session = [1, 7, 2**64 - 1][i]
        message = {"sessionId": session, "worker": worker} | keys
        updates.append(plain | {"sessionId": session} | typed("SessionKeyUpdate", chain, registry, message))
    heartbeats = []
    for models, draining, ready, sequence in [
        (["llama3-8b"], False, True, 1_700_000_000_000),
        (["llama3-8b", "gpt-oss:20b"], True, False, 2),
        ([], False, False, 0),
        (["qwen3-vl:8b"], True, True, 2**63),
    ]:
        ids = [k(m.encode()) for m in models]
        status = int(draining) | (0 if ready else 2)
        signed = {"worker": addr(0x33), "sentAt": 1_700_000_000, "activeJobs": 1, "maxJobs": 2}
        message = signed | {"modelsHash": k(b"".join(ids)), "status": status, "sequence": sequence}
        heartbeats.append(
            {
                "chainId": 8200,
                "jobRegistry": addr(0x11),
                "heartbeat": signed
                | {
                    "models": [h(m) for m in ids],
                    "status": "draining" if draining else "active",
                    "inferenceReady": ready,
                    "uptimeSeconds": 60,
                    "sequence": sequence,
                },
                "modelsHash": h(k(b"".join(ids))),
                "status": status,
            }
            | typed("Heartbeat", 8200, addr(0x11), message)
        )
    jobs = {"SubmitJob": [], "CompleteJob": []}
    for registry, first, number in ((addr(0x11), 1, 0), ("0x9A9f2CCfdE556A7E9Ff0848998Aa4a0CFD8863AE", 2**64 - 1, 2**256 - 1)):
        blobs = [b"\x01" + k(bytes([i]))[1:] for i in (1, 2)]
        messages = {
            "SubmitJob": {"sessionId": first, "jobIndex": 3, "promptBlobHash": blobs[0], "maxFee": number, "expiry": 1_700_000_120},
            "CompleteJob": {
                "jobId": first,
                "sessionId": 7,
                "promptBlobHash": blobs[0],
                "responseBlobHash": blobs[1],
                "responseCiphertextHash": k(b"ciphertext"),
            },
        }
        for name, message in messages.items():
            shown = {n: h(v) if isinstance(v, bytes) else hex(v) for n, v in message.items()}
            jobs[name].append(
                {"chainId": 8200, "jobRegistry": registry, "message": shown} | typed(name, 8200, registry, message)
            )
    return {
        "submitJobCount": len(jobs["SubmitJob"]),
        "submitJobs": jobs["SubmitJob"],
        "completeJobCount": len(jobs["CompleteJob"]),
        "completeJobs": jobs["CompleteJob"],
        "sessionAuthorizationCount": len(authorizations),
        "sessionAuthorizations": authorizations,
        "sessionKeyUpdateCount": len(updates),
        "sessionKeyUpdates": updates,
        "heartbeatCount": len(heartbeats),
        "heartbeats": heartbeats,
    }


def drawn(name, candidates, block=b"\x01" * 32, user=addr(0x22), nonce=0, model="llama3-8b"):
    """candidates: (address, stake, cap, reputation)."""
    model_id = k(model.encode())
    seed = k(
        encode(
            ["bytes32", "bytes32", "address", "uint256", "bytes32"],
            [k(b"lcai draw v1"), block, user, nonce, model_id],
        )
    )
    weigh = lambda c: min(c[1], c[2], 2**128 - 1) * c[3]
    total = sum(map(weigh, candidates))
    worker = addr(0)
    if total:
        point = int.from_bytes(seed, "big") % total
        for c in sorted(candidates, key=lambda c: int(c[0], 16)):
            if point < weigh(c):
                worker = c[0]
                break
            point -= weigh(c)
    return {
        "name": name,
        "blockHash": h(block),
        "user": user,
        "nonce": hex(nonce),
        "modelId": h(model_id),
        "workers": [c[0] for c in candidates],
        "stakes": [hex(c[1]) for c in candidates],
        "stakeCaps": [hex(c[2]) for c in candidates],
        "reputations": [c[3] for c in candidates],
        "seed": h(seed),
        "total": hex(total),
        "drawn": worker,
    }


def draws():
    lcai = 10**18
    even = [(addr(b), 5000 * lcai, 50000 * lcai, 100) for b in (0x0A, 0x0B, 0x0C)]
    mixed = [
        (addr(0xF1), 7000 * lcai, 6000 * lcai, 95),
        (addr(0x01), 5000 * lcai, 6000 * lcai, 100),
        (addr(0x80), 5500 * lcai, 6000 * lcai, 3),
    ]
    big = 2**256 - 1
    out = [
        drawn("no candidate", []),
        drawn("one candidate", even[:1]),
        drawn("one candidate without stake", [(addr(0x0A), 0, lcai, 100)]),
        drawn("one candidate without reputation", [(addr(0x0A), lcai, lcai, 0)]),
        drawn("cap of zero", [(addr(0x0A), lcai, 0, 100), (addr(0x0B), lcai, 0, 100)]),
        drawn("only the last has weight", [(addr(0x0A), lcai, lcai, 0), (addr(0x0B), 0, lcai, 9), (addr(0x0C), 1, 1, 1)]),
        drawn("weight of one in all", [(addr(0x0A), 1, 1, 1)], nonce=2**256 - 1),
        drawn("unsorted input", mixed),
        drawn("the same, sorted", sorted(mixed)),
        drawn("the same address twice", [(addr(0x0A), lcai, lcai, 1), (addr(0x0A), lcai, lcai, 2), (addr(0x05), lcai, lcai, 1)]),
        drawn("address order is by value, not by first digit", [("0x" + "00" * 19 + "ff", lcai, lcai, 1), ("0x" + "00" * 18 + "0100", lcai, lcai, 1)]),
        drawn("stakes and reputation at their largest", [(addr(b), big, big, 2**64 - 1) for b in (1, 2, 3)]),
        drawn("clamp to 128 bits", [(addr(1), 2**128, big, 1), (addr(2), 2**128 - 1, big, 1), (addr(3), big, 2**127, 1)]),
        drawn("another model", mixed, model="gpt-oss:120b"),
        drawn("another user", mixed, user=addr(0x23)),
        drawn("another block", mixed, block=k(b"another block")),
    ]
    out += [drawn(f"even weights, nonce {n}", even, nonce=n) for n in range(8)]
    out += [drawn(f"mixed weights, nonce {n}", mixed, nonce=n) for n in range(1, 5)]
    return {"count": len(out), "vectors": out}


for name, data in (("eip712.json", eip712()), ("draw.json", draws())):
    (HERE / name).write_text(json.dumps(data, indent=1) + "\n")
