// Compares the gas snapshots of test/Gas.t.sol with the committed budget and fails beyond 3 % either way.
// Usage: node tools/gas.mjs [--update]  (after: forge test --isolate --match-contract GasTest)
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const TOLERANCE = 0.03;
const measured = JSON.parse(readFileSync(join(root, 'gas/gas.json'), 'utf8'));
const path = join(root, 'gas-budget.json');

if (process.argv.includes('--update')) {
  const sorted = Object.fromEntries(Object.entries(measured).sort().map(([k, v]) => [k, Number(v)]));
  writeFileSync(path, JSON.stringify(sorted, null, 1) + '\n');
}
const budget = JSON.parse(readFileSync(path, 'utf8'));
for (const name of new Set([...Object.keys(budget), ...Object.keys(measured)])) {
  const [now, allowed] = [Number(measured[name]), budget[name]];
  const change = now / allowed - 1;
  const ok = Number.isFinite(change) && Math.abs(change) <= TOLERANCE;
  console.log(`${name.padEnd(24)} ${String(now).padStart(9)} budget ${String(allowed).padStart(9)} ${(change * 100).toFixed(1).padStart(6)} %${ok ? '' : '  <-- outside 3 %'}`);
  if (!ok) process.exitCode = 1;
}
