// Writes or checks the committed artefacts: abi/<Name>.json (a bare ABI array) and bytecode/<Name>.json (creation code
// with forge's link references). Usage: node tools/artifacts.mjs [--check]
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const check = process.argv.includes('--check');
// EIP-170; also the budget CI holds JobRegistry to.
const MAX_CODE = 24_576;
const CONTRACTS = readFileSync(join(root, 'tools/artifacts.txt'), 'utf8').split(/\s+/).filter(Boolean);

let stale = 0;
const wanted = new Set();
function emit(path, value) {
  wanted.add(path);
  const text = JSON.stringify(value, null, 1) + '\n';
  const full = join(root, path);
  const same = existsSync(full) && readFileSync(full, 'utf8') === text;
  if (same) return;
  if (check) {
    console.error(`differs from the sources: contracts/${path}`);
    stale++;
  } else {
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, text);
    console.log(`wrote ${path}`);
  }
}

// Stable order whatever the compiler does: by kind, then name, then inputs.
const key = (e) => `${e.type}|${e.name ?? ''}|${(e.inputs ?? []).map((i) => i.type).join(',')}`;

for (const entry of CONTRACTS) {
  const [file, name = file] = entry.split(':');
  const artefact = JSON.parse(readFileSync(join(root, `artifacts/${file}.sol/${name}.json`), 'utf8'));
  const size = (artefact.deployedBytecode.object.length - 2) / 2;
  if (size > MAX_CODE) {
    console.error(`${name}: ${size} bytes of code, the limit is ${MAX_CODE}`);
    process.exitCode = 1;
  }
  console.log(`${name.padEnd(20)} ${String(size).padStart(6)} bytes`);
  emit(`abi/${name}.json`, [...artefact.abi].sort((a, b) => (key(a) < key(b) ? -1 : 1)));
  emit(`bytecode/${name}.json`, {
    bytecode: artefact.bytecode.object,
    linkReferences: artefact.bytecode.linkReferences,
  });
}
for (const dir of ['abi', 'bytecode']) {
  if (!existsSync(join(root, dir))) continue;
  for (const f of readdirSync(join(root, dir))) {
    const path = `${dir}/${f}`;
    if (!f.endsWith('.json') || wanted.has(path)) continue;
    if (check) {
      console.error(`has no source: contracts/${path}`);
      stale++;
    } else rmSync(join(root, path));
  }
}
if (stale) process.exitCode = 1;
