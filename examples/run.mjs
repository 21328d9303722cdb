// Starts a devnet, asks through ask.mjs in both ways, then runs the commands of docs/application.md and holds each answer
// to the schema that the node itself gives for the method. Exits with 1 at the first thing that is not as documented.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { toHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { ask } from './ask.mjs'

const root = new URL('..', import.meta.url).pathname
const say = (text) => process.stdout.write(`${text}\n`)

/** Starts `lcai devnet` and reads its address and keys from what it prints. */
async function devnet(binary) {
  const child = spawn(binary, ['devnet', '--listen', '127.0.0.1:0'], { stdio: ['ignore', 'pipe', 'pipe'] })
  process.on('exit', () => child.kill())
  let text = ''
  await new Promise((resolve, reject) => {
    const read = (data) => {
      text += data
      if (/lcai_\* at ws:\S+/.test(text)) resolve()
    }
    child.stdout.on('data', read)
    child.stderr.on('data', read)
    child.on('exit', (code) => reject(new Error(`lcai devnet ended with ${code}:\n${text}`)))
  })
  const keys = [...text.matchAll(/key (0x[0-9a-f]{64})/g)].map((match) => match[1])
  return { url: text.match(/lcai_\* at (ws:\S+)/)[1].replace('ws:', 'http:'), keys }
}

/** Whether a value fits a JSON schema, as far as the document uses them; throws where it does not. */
function check(value, schema, components, where) {
  if (schema.$ref) return check(value, components[schema.$ref.split('/').pop()], components, where)
  for (const part of schema.allOf ?? []) check(value, part, components, where)
  if (schema.anyOf) {
    const reasons = []
    for (const part of schema.anyOf) {
      try {
        return check(value, part, components, where)
      } catch (error) {
        reasons.push(error.message)
      }
    }
    throw new Error(reasons.join('; '))
  }
  if (schema.type) {
    const type = value === null ? 'null' : Array.isArray(value) ? 'array' : Number.isInteger(value) ? 'integer' : typeof value
    assert([schema.type].flat().includes(type), `${where} is ${type}, not ${schema.type}`)
  }
  if (schema.pattern) assert.match(value, new RegExp(schema.pattern), where)
  if (schema.enum) assert(schema.enum.includes(value), `${where}: ${value}`)
  if (Array.isArray(value)) value.forEach((item, i) => check(item, schema.items ?? {}, components, `${where}[${i}]`))
  if (schema.properties && value) {
    for (const name of schema.required ?? []) assert(name in value, `${where}.${name} is missing`)
    for (const [name, member] of Object.entries(value)) {
      assert(name in schema.properties, `${where}.${name} is not in the schema`)
      check(member, schema.properties[name], components, `${where}.${name}`)
    }
  }
}

/** The page's commands: lines of `sh` blocks under `<!-- run -->`. A trailing `# -39006` is the error that is expected. */
function commands(page) {
  const blocks = [...page.matchAll(/<!-- run -->\n```sh\n([\s\S]*?)```/g)].map((match) => match[1])
  return blocks.join('\n').split('\n').filter((line) => line.trim() && !line.startsWith('#'))
}

function runPage(env, document) {
  const methods = new Map(document.methods.map((method) => [method.name, method]))
  const components = document.components.schemas
  const page = readFileSync(`${root}docs/application.md`, 'utf8')
  const lines = commands(page)
  const setup = lines.filter((line) => /^\w+\(\) \{/.test(line)).join('\n')
  const seen = new Set()
  for (const line of lines.filter((line) => !setup.includes(line))) {
    const expected = line.match(/# (-\d+)$/)?.[1]
    const done = spawnSync('bash', ['-euc', `${setup}\n${line}`], { cwd: root, env: { ...process.env, ...env }, encoding: 'utf8', maxBuffer: 1 << 24 })
    assert.equal(done.status, 0, `${line}\n${done.stderr}`)
    const answer = JSON.parse(done.stdout)
    const name = line.split(' ')[1]
    seen.add(name)
    const method = methods.get(name)
    assert(method, `${name} is not in the OpenRPC document`)
    assert.equal(String(answer.error?.code ?? ''), expected ?? '', `${line}\n${done.stdout}`)
    if (expected) continue
    const schema = method['x-notification']?.params.result ?? method.result.schema
    check(answer.result, schema, components, name)
  }
  // Logging in, opening a session, posting and streaming are in the example; the worker's two calls are its own.
  const example = readFileSync(`${root}examples/ask.mjs`, 'utf8')
  const shown = (name) => seen.has(name) || example.includes(`'${name.slice(5)}'`) || example.includes(`'${name}'`)
  const missing = [...methods.keys()].filter((name) => !shown(name) && !/^lcai_unsubscribe|discover$/.test(name))
  assert.deepEqual(missing, [], 'methods without an example')
  return seen.size
}

const { url, keys } = await devnet(process.argv[2])
const call = async (method, ...params) => {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })
  const answer = await (await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })).json()
  if (answer.error) throw new Error(`${method}: ${answer.error.message}`)
  return answer.result
}

let text = ''
const first = await ask({ url, privateKey: keys[0], prompt: 'What is the capital of France?', show: (t) => (text += t) })
assert.match(first.answer, /Paris/)
assert.equal(text, first.answer)
assert(first.macs > 0, 'no chunk had a mac')
say(`ask.mjs: ${first.answer} (${first.macs} macs, signature and hash on chain right)`)

const own = await ask({ url, privateKey: keys[1], prompt: 'What is 12 plus 30?', ownBlob: true })
assert.match(own.answer, /42/)
say(`ask.mjs --own-blob: ${own.answer} (${own.macs} macs, signature and hash on chain right)`)

const account = privateKeyToAccount(keys[0])
const { message } = await call('lcai_challenge', account.address)
const { token } = await call('lcai_login', message, await account.signMessage({ message }))
const offer = await call('lcai_requestSession', 'lcai-tiny', account.address)
const env = {
  RPC: url,
  ACCOUNT: account.address,
  TOKEN: token,
  SESSION: toHex(first.sessionId),
  JOB: toHex(first.jobId),
  BLOB: first.versionedHash,
  WORKER: first.worker,
  MODEL: offer.modelId,
}
say(`docs/application.md: ${runPage(env, await call('rpc.discover'))} methods answered as documented`)
process.exit(0)
