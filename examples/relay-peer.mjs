// The relay as one would write it in Node.js with `ws`, for crates/rpc/examples/relay_load to be compared with: logins,
// the same checks on the same frames, duplicates dropped, frames on disk before the worker is answered, one envelope with a
// cursor to every reader of the session, slow readers cut. Prints its address.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { fdatasync, openSync, unlinkSync, write } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { encodeAbiParameters, keccak256, recoverMessageAddress, toHex } from 'viem'
import { privateKeyToAddress } from 'viem/accounts'
import { WebSocketServer } from 'ws'

const USER = privateKeyToAddress(`0x${'01'.repeat(32)}`)
const WORKER = privateKeyToAddress(`0x${'02'.repeat(32)}`)
const REGISTRY = `0x${'03'.repeat(20)}`
const JOBS_PER_SESSION = 2 ** 20
const SLOW_BYTES = 1 << 20
const secret = randomBytes(32)
const path = join(tmpdir(), `relay-peer-${process.pid}`)
const file = openSync(path, 'w')
unlinkSync(path)
const [append, sync] = [promisify(write), promisify(fdatasync)]

class Refused extends Error {
  constructor(code, text) {
    super(text)
    this.code = code
  }
}

const mac = (text) => createHmac('sha256', secret).update(text).digest('hex')
const issue = (account) => {
  const body = `${account}.${Math.floor(Date.now() / 1000) + 3600}.${randomBytes(16).toString('hex')}`
  return `${body}.${mac(body)}`
}
function account(token) {
  const at = String(token).lastIndexOf('.')
  const [body, given] = [token.slice(0, at), token.slice(at + 1)]
  const expected = mac(body)
  if (given.length !== expected.length || !timingSafeEqual(Buffer.from(given), Buffer.from(expected))) throw new Refused(-39003, 'not a token')
  const [who, expiry] = body.split('.')
  if (Number(expiry) <= Date.now() / 1000) throw new Refused(-39004, 'the token has expired')
  return who
}

/** Per session: the last cursor, frames by cursor, what was seen, and who reads. */
const sessions = new Map()
function sessionOf(id) {
  let session = sessions.get(id)
  if (!session) sessions.set(id, (session = { cursor: 0, kept: [], places: new Map(), readers: new Map() }))
  return session
}

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/
const size = (payload) => (payload ? Buffer.byteLength(payload, 'base64') : 0)
async function check(frame, index) {
  const refuse = (text) => {
    throw new Refused(-39009, `frame ${index}: ${text}`)
  }
  if (!Number.isSafeInteger(frame.jobId) || !Number.isSafeInteger(frame.sessionId)) refuse('ids are numbers')
  if (Math.floor(frame.jobId / JOBS_PER_SESSION) !== frame.sessionId) refuse('the job belongs to another session')
  if (String(frame.correlationId ?? '').length > 512) refuse('correlationId is at most 512 bytes')
  if (frame.payload != null && !BASE64.test(frame.payload)) refuse('payload is not base64')
  const length = size(frame.payload)
  if (frame.type === 'chunk') {
    if (!(frame.seq >= 1 && frame.seq <= 1 << 20) || frame.totalChunks !== 0 || frame.signature) refuse('not a chunk')
    if (length < 28 || length > 65536) refuse('the payload is 28 to 65536 bytes')
  } else if (frame.type === 'complete') {
    if (frame.seq !== frame.totalChunks || !(frame.seq >= 1) || !frame.signature) refuse('not a complete frame')
    if (length < 28 || length > 126972) refuse('the payload is 28 to 126972 bytes')
    const types = ['uint256', 'address', 'uint256', 'uint256', 'bytes'].map((type) => ({ type }))
    const ciphertext = toHex(Buffer.from(frame.payload, 'base64'))
    const raw = keccak256(encodeAbiParameters(types, [8200n, REGISTRY, BigInt(frame.jobId), BigInt(frame.sessionId), ciphertext]))
    const signer = await recoverMessageAddress({ message: { raw }, signature: frame.signature })
    if (signer !== WORKER) refuse('not the worker\'s signature')
  } else refuse('unknown type')
}

/** Group commit: whatever waits goes to disk together, then to readers, then the callers are answered. */
const waiting = []
let committing = false
async function commit() {
  if (committing) return
  committing = true
  while (waiting.length > 0) {
    const batch = waiting.splice(0)
    const fresh = []
    for (const { frames, cursors } of batch) {
      for (const frame of frames) {
        const session = sessionOf(frame.sessionId)
        const place = `${frame.jobId}/${frame.type}/${frame.type === 'chunk' ? frame.seq : 0}`
        let cursor = session.places.get(place)
        if (cursor === undefined) {
          cursor = ++session.cursor
          session.places.set(place, cursor)
          fresh.push([session, cursor, `{"cursor":"0x${cursor.toString(16)}","frame":${JSON.stringify(frame)}}`])
        }
        cursors.push(`0x${cursor.toString(16)}`)
      }
    }
    await append(file, fresh.map(([, , json]) => json).join('\n'))
    await sync(file)
    for (const [session, cursor, json] of fresh) {
      session.kept.push([cursor, json])
      for (const [id, socket] of session.readers) deliver(session, id, socket, json)
    }
    for (const { cursors, done } of batch) done({ cursors })
  }
  committing = false
}

function deliver(session, id, socket, json) {
  if (socket.bufferedAmount > SLOW_BYTES) {
    session.readers.delete(id)
    socket.terminate()
    return
  }
  socket.send(`{"jsonrpc":"2.0","method":"lcai_frames","params":{"subscription":"${id}","result":${json}}}`)
}

const challenges = new Set()
const methods = {
  async lcai_challenge([who]) {
    const message = `relay login\n${who}\n${randomBytes(16).toString('hex')}`
    challenges.add(message)
    return { message }
  },
  async lcai_login([message, signature]) {
    if (!challenges.delete(message)) throw new Refused(-39003, 'not a challenge of this relay')
    const signer = await recoverMessageAddress({ message, signature })
    if (signer.toLowerCase() !== message.split('\n')[1].toLowerCase()) throw new Refused(-39003, 'not its signature')
    return { token: issue(signer) }
  },
  async lcai_submitFrames([token, frames]) {
    if (account(token) !== WORKER) throw new Refused(-39009, 'not the worker')
    if (frames.length > 256) throw new Refused(-32602, 'at most 256 frames')
    for (const [index, frame] of frames.entries()) await check(frame, index)
    return new Promise((done) => {
      waiting.push({ frames, cursors: [], done })
      commit()
    })
  },
  async lcai_subscribeFrames([token, session, cursor], socket) {
    if (account(token) !== USER) throw new Refused(-39003, 'another account\'s session')
    const [id, room] = [randomBytes(16).toString('hex'), sessionOf(Number(session))]
    for (const [at, json] of room.kept) if (at > Number(cursor)) deliver(room, id, socket, json)
    room.readers.set(id, socket)
    socket.on('close', () => room.readers.delete(id))
    return id
  },
}

const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 2 << 20, perMessageDeflate: false, backlog: 1024 })
server.on('listening', () => process.stdout.write(`ws://127.0.0.1:${server.address().port}\n`))
server.on('connection', (socket) => {
  socket.on('error', () => {})
  socket.on('message', async (data) => {
    let id = null
    try {
      const request = JSON.parse(data)
      id = request.id
      const method = methods[request.method]
      if (!method) throw new Refused(-32601, 'no such method')
      socket.send(JSON.stringify({ jsonrpc: '2.0', id, result: await method(request.params, socket) }))
    } catch (error) {
      socket.send(JSON.stringify({ jsonrpc: '2.0', id, error: { code: error.code ?? -32700, message: error.message } }))
    }
  })
})
