// Keeps the storage layouts append only. Compares what the compiler lays out with storage-layout/<Name>.json and fails
// when an entry moved, changed its type or vanished; new entries at the end are taken with --update.
// Usage: node tools/storage.mjs [--update]  (after a build)
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const update = process.argv.includes('--update');
const CONTRACTS = ['AIConfig', 'JobRegistry', 'WorkerRegistry', 'SessionManager', 'ReputationRegistry', 'CanaryLedger'];

// Type names carry AST ids, which change with every edit.
const clean = (type) => type.replace(/\)\d+_/g, ')_').replace(/(\w)\)\d+/g, '$1)').replace(/\d+_storage/g, 'storage');

// Every variable and every struct member, one line each: where, what, which type.
function flatten(layout) {
  const lines = [];
  const seen = new Set();
  const walk = (prefix, members, types) => {
    for (const m of members) {
      lines.push(`${prefix}${m.slot}:${m.offset} ${m.label} ${clean(m.type)}`);
      visit(m.type, types);
    }
  };
  const visit = (id, types) => {
    const t = types[id];
    if (!t || seen.has(id)) return;
    seen.add(id);
    for (const inner of [t.key, t.value, t.base]) if (inner) visit(inner, types);
    if (t.members) walk(`${clean(id)} `, t.members, types);
  };
  walk('', layout.storage, layout.types ?? {});
  return lines;
}

for (const name of CONTRACTS) {
  const { storageLayout } = JSON.parse(readFileSync(join(root, `artifacts/${name}.sol/${name}.json`), 'utf8'));
  const now = flatten(storageLayout);
  const path = join(root, `storage-layout/${name}.json`);
  const before = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : [];
  const have = new Set(now);
  const lost = before.filter((line) => !have.has(line));
  const known = new Set(before);
  const added = now.filter((line) => !known.has(line));
  for (const line of lost) console.error(`${name}: moved or gone: ${line}`);
  for (const line of added) console.log(`${name}: new: ${line}`);
  if (lost.length) process.exitCode = 1;
  else if (added.length && !update) {
    console.error(`${name}: layout grew; run with --update and commit`);
    process.exitCode = 1;
  } else if (added.length) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, JSON.stringify(now, null, 1) + '\n');
  } else console.log(`${name}: ${now.length} entries, unchanged`);
}
