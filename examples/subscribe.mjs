// Prints the first notifications of a subscription: node subscribe.mjs http://127.0.0.1:8545 lcai_subscribeNetwork '[]' [count]
import WebSocket from 'ws'

const [url, method, params, count = '1'] = process.argv.slice(2)
const socket = new WebSocket(url.replace(/^http/, 'ws'))
let left = Number(count)
socket.on('open', () => socket.send(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: JSON.parse(params) })))
socket.on('message', (data) => {
  const message = JSON.parse(data)
  if (left === 0 || (message.id === 1 && !message.error)) return
  process.stdout.write(`${JSON.stringify(message.params ?? { error: message.error })}\n`)
  if (message.error || --left === 0) socket.terminate()
})
