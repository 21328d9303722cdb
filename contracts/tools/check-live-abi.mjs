// Fails unless our ABIs hold everything of the live network's interfaces: every function (selector, argument names,
// outputs, mutability), event (topic, argument names, indexed) and error. Usage: node tools/check-live-abi.mjs
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

const type = (p) => (p.type.startsWith('tuple') ? `(${p.components.map(type).join(',')})${p.type.slice(5)}` : p.type);
const param = (p) =>
  `${type(p)} ${p.name}${p.indexed ? ' indexed' : ''}${p.components ? ` {${p.components.map(param).join(', ')}}` : ''}`;
const params = (list) => (list ?? []).map(param).join(', ');
// Everything a caller or an indexer can depend on, in one line.
const line = (e) =>
  `${e.type} ${e.name ?? ''}(${params(e.inputs)})` +
  (e.type === 'event' && e.anonymous ? ' anonymous' : '') +
  (e.type === 'function' ? ` ${e.stateMutability} returns (${params(e.outputs)})` : '');

let missing = 0;
for (const file of readdirSync(join(root, 'abi/live')).sort()) {
  const name = file.replace(/^I(.*)\.json$/, '$1');
  const path = join(root, `abi/${name}.json`);
  const live = JSON.parse(readFileSync(join(root, 'abi/live', file), 'utf8'));
  const ours = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : [];
  const have = new Set(ours.map(line));
  const want = live.filter((e) => e.type !== 'constructor');
  const lost = want.filter((e) => !have.has(line(e)));
  for (const e of lost) {
    missing++;
    console.error(`${name}: missing ${line(e)}`);
    const near = ours.find((o) => o.type === e.type && o.name === e.name);
    if (near) console.error(`${' '.repeat(name.length)}  have    ${line(near)}`);
  }
  console.log(`${name}: ${want.length - lost.length} of ${want.length} live entries, ${ours.length - (want.length - lost.length)} of our own`);
}
process.exitCode = missing ? 1 : 0;
