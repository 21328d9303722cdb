// An application of LightChain AI: from a prompt to a verified answer, against one node and nothing else.
//
//   node ask.mjs http://127.0.0.1:8545 0xPRIVATE_KEY "What is the capital of France?" [--own-blob]
//
// viem signs and sends, WebCrypto does the rest. With --own-blob the account posts its prompt itself (own-blob.mjs).
import { readFileSync } from 'node:fs'
import { createPublicClient, createWalletClient, defineChain, encodeAbiParameters, http, keccak256, parseEventLogs } from 'viem'
import { recoverMessageAddress, toBytes, toHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import WebSocket from 'ws'

const { subtle } = globalThis.crypto
const random = (length) => globalThis.crypto.getRandomValues(new Uint8Array(length))
const join = (...parts) => new Uint8Array(Buffer.concat(parts))
const abi = JSON.parse(readFileSync(new URL('../contracts/abi/JobRegistry.json', import.meta.url)))

/** AES-256-GCM: nonce(12) ‖ ciphertext ‖ tag(16), no additional data. */
const aes = (key) => subtle.importKey('raw', key, 'AES-GCM', false, ['encrypt', 'decrypt'])
async function seal(key, plain) {
  const iv = random(12)
  return join(iv, new Uint8Array(await subtle.encrypt({ name: 'AES-GCM', iv }, await aes(key), plain)))
}
async function open(key, sealed) {
  const algorithm = { name: 'AES-GCM', iv: sealed.subarray(0, 12) }
  return new Uint8Array(await subtle.decrypt(algorithm, await aes(key), sealed.subarray(12)))
}

/** The session key for one reader: ephemeral P-256 point(65) ‖ the key sealed under the raw shared X coordinate. */
async function wrap(sessionKey, reader) {
  const curve = { name: 'ECDH', namedCurve: 'P-256' }
  const pair = await subtle.generateKey(curve, false, ['deriveBits'])
  const readerKey = await subtle.importKey('raw', toBytes(reader), curve, false, [])
  const shared = await subtle.deriveBits({ name: 'ECDH', public: readerKey }, pair.privateKey, 256)
  const point = new Uint8Array(await subtle.exportKey('raw', pair.publicKey))
  return toHex(join(point, await seal(new Uint8Array(shared), sessionKey)))
}

/** Checks the macs of one job's chunks: each covers job id, seq, the mac before it, and the sealed payload. Gives false
    where a chunk before it is missing: the signed answer has all the text. */
async function macChecker(sessionKey, jobId) {
  const secret = await subtle.importKey('raw', sessionKey, 'HKDF', false, ['deriveKey'])
  const info = { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(), info: toBytes('lcai chunk v1') }
  const key = await subtle.deriveKey(info, secret, { name: 'HMAC', hash: 'SHA-256', length: 256 }, false, ['verify'])
  let [previous, next] = [new Uint8Array(32), 1]
  return async (frame, payload) => {
    if (frame.seq !== next) return false
    next += 1
    const mac = toBytes(frame.mac)
    const covered = join(toBytes(jobId, { size: 8 }), toBytes(frame.seq, { size: 4 }), previous, payload)
    if (!(await subtle.verify('HMAC', key, mac, covered))) throw new Error(`the mac of chunk ${frame.seq} is wrong`)
    previous = mac
    return true
  }
}

/** `lcai_subscribeFrames` over WebSocket: yields frames, and goes on from the last cursor when it is cut, with a new login
    where the node does not take the token any more. */
async function* frames(url, token, login, session) {
  for (let cursor = '0x0', renewed = false; ; ) {
    const socket = new WebSocket(url.replace(/^http/, 'ws'))
    const queue = []
    let wake = () => {}
    const push = (item) => (queue.push(item), wake())
    socket.on('open', () =>
      socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'lcai_subscribeFrames', params: [token, session, cursor] })),
    )
    socket.on('message', (data) => push(JSON.parse(data)))
    socket.on('error', () => {})
    socket.on('close', () => push(null))
    try {
      for (;;) {
        while (queue.length === 0) await new Promise((resolve) => (wake = resolve))
        const message = queue.shift()
        if (message === null) break
        if ([-39003, -39004].includes(message.error?.code) && !renewed) {
          token = await login()
          renewed = true
          break
        }
        // -39013: the node reads the session's block in a moment. Anything else will not get better.
        if (message.error && message.error.code !== -39013) throw new Error(message.error.message)
        if (message.error || message.params?.error) break
        if (message.method !== 'lcai_frames') continue
        renewed = false
        cursor = message.params.result.cursor
        yield message.params.result.frame
      }
    } finally {
      socket.close()
    }
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
}

/** Asks one question in a new session; `show` gets the text as it comes. Returns the verified answer. */
export async function ask({ url, privateKey, model = 'lcai-tiny', prompt, ownBlob = false, show = () => {} }) {
  const account = privateKeyToAccount(privateKey)
  const plain = createPublicClient({ transport: http(url) })
  const lcai = (method, ...params) => plain.request({ method: `lcai_${method}`, params })

  const { deployment, disputerEncryptionKey } = await lcai('network')
  const chain = defineChain({
    id: Number(deployment.chainId),
    name: 'LightChain AI',
    nativeCurrency: { name: 'LCAI', symbol: 'LCAI', decimals: 18 },
    rpcUrls: { default: { http: [url] } },
  })
  const reader = createPublicClient({ chain, transport: http(url), pollingInterval: 200 })
  const wallet = createWalletClient({ account, chain, transport: http(url) })
  const registry = { address: deployment.jobRegistry, abi }
  const send = async (functionName, args, value = 0n) => {
    const { request } = await reader.simulateContract({ ...registry, account, functionName, args, value })
    const receipt = await reader.waitForTransactionReceipt({ hash: await wallet.writeContract(request) })
    if (receipt.status !== 'success') throw new Error(`${functionName} reverted: ${receipt.transactionHash}`)
    return parseEventLogs({ abi, logs: receipt.logs })[0].args
  }

  // Log in: the account signs the node's text (EIP-191), the token is a parameter from then on.
  const login = async () => {
    const { message } = await lcai('challenge', account.address)
    return (await lcai('login', message, await account.signMessage({ message }))).token
  }
  const token = await login()

  // Two calls and one transaction open a session.
  const offer = await lcai('requestSession', model, account.address)
  const sessionKey = random(32)
  const encWorkerKey = await wrap(sessionKey, offer.workerEncryptionKey)
  const encDisputerKey = disputerEncryptionKey === '0x' ? '0x' : await wrap(sessionKey, disputerEncryptionKey)
  const request = { user: account.address, modelId: offer.modelId, worker: offer.worker, encWorkerKey, encDisputerKey, nonce: offer.nonce }
  const grant = await lcai('authorizeSession', request, { token })
  const session = await send('createSession', [
    offer.modelId, offer.worker, encWorkerKey, encDisputerKey, grant.signature, BigInt(grant.expiry),
  ])

  // The sealed prompt goes into a blob, the job names it and pays.
  const sealed = await seal(sessionKey, toBytes(prompt))
  const { versionedHash } = ownBlob
    ? await (await import('./own-blob.mjs')).publish({ reader, account, chain, payload: sealed })
    : await lcai('publishBlob', token, toHex(sealed))
  const job = await send('submitJob', [session.sessionId, versionedHash], BigInt(offer.fee))

  // Chunks are shown as they come; the last frame carries the whole answer under the worker's signature.
  const check = await macChecker(sessionKey, job.jobId)
  let [shown, macs] = ['', 0]
  for await (const frame of frames(url, token, login, toHex(session.sessionId))) {
    if (BigInt(frame.jobId) !== job.jobId) continue
    const payload = frame.payload ? new Uint8Array(Buffer.from(frame.payload, 'base64')) : new Uint8Array()
    if (frame.type === 'error') throw new Error('the worker gave up; the fee is refunded after the deadline')
    if (frame.type === 'chunk') {
      if (!(await check(frame, payload))) continue
      macs += 1
      if ((frame.kind ?? 'text') !== 'text') continue
      const text = new TextDecoder().decode(await open(sessionKey, payload))
      shown += text
      show(text)
    } else if (frame.type === 'complete') {
      const types = ['uint256', 'address', 'uint256', 'uint256', 'bytes'].map((type) => ({ type }))
      const signed = [BigInt(chain.id), deployment.jobRegistry, job.jobId, session.sessionId, toHex(payload)]
      const raw = keccak256(encodeAbiParameters(types, signed))
      const signer = await recoverMessageAddress({ message: { raw }, signature: frame.signature })
      if (signer.toLowerCase() !== offer.worker.toLowerCase()) throw new Error(`signed by ${signer}, not by ${offer.worker}`)
      const answer = new TextDecoder().decode(await open(sessionKey, payload))
      if (!answer.startsWith(shown)) throw new Error('what was streamed is not what was signed')
      show(answer.slice(shown.length))
      const settled = await committed(reader, registry, job.jobId)
      if (settled !== keccak256(payload)) throw new Error(`the chain has ${settled}: see lcai_getDisputeEvidence`)
      const hash = settled
      return { answer, macs, worker: offer.worker, sessionId: session.sessionId, jobId: job.jobId, versionedHash, hash }
    }
  }
}

/** The hash of the answer that the worker commits on chain, a few seconds after it streamed. */
async function committed(reader, registry, jobId) {
  for (;;) {
    const job = await reader.readContract({ ...registry, functionName: 'getJob', args: [jobId] })
    if (job.state >= 2) return job.responseCiphertextHash
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
}

if (import.meta.url === `file://${process.argv[1]}`) {
  const [url, privateKey, prompt, option, ...rest] = process.argv.slice(2)
  const wrong = !/^https?:/.test(url) || !/^0x[0-9a-f]{64}$/i.test(privateKey) || !prompt || rest.length > 0
  if (wrong || ![undefined, '--own-blob'].includes(option)) {
    console.error('usage: node ask.mjs http://HOST:PORT 0xPRIVATE_KEY "PROMPT" [--own-blob] (the key: 64 hex digits)')
    process.exit(2)
  }
  const show = (text) => process.stdout.write(text)
  // Not the whole error: viem's names the request, and with it the login.
  const fail = (error) => {
    console.error(`${url}: ${[error.shortMessage ?? error.message, error.details].filter(Boolean).join(' ')}`)
    process.exit(1)
  }
  const done = await ask({ url, privateKey, prompt, ownBlob: option === '--own-blob', show }).catch(fail)
  const { answer, ...facts } = done
  process.stdout.write(`\n${JSON.stringify(facts, (_, v) => (typeof v === 'bigint' ? toHex(v) : v), 2)}\n`)
}
