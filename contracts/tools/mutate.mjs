// Tries the mutants of tools/mutants.txt: each removes or bends one guard in a copy of this folder, where the tests must
// then fail. Prints killed and survivors; exits 1 when one survives. Usage: node tools/mutate.mjs [first [last]]
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const unescape = (s) => s.trim().replaceAll('\\n', '\n').replaceAll('\\|', '|');
const mutants = readFileSync(join(root, 'tools/mutants.txt'), 'utf8')
  .split('\n')
  .filter((line) => line && !line.startsWith('#'))
  .map((line) => line.split(/ \|(?: |$)/))
  .map(([file, from, to]) => ({ file: `src/${file.trim()}`, from: unescape(from), to: unescape(to ?? '') }));
const [first, last] = [Number(process.argv[2] ?? 1), Number(process.argv[3] ?? mutants.length)];

// Laid out as in the repository, because the tests read the vectors beside this folder.
const top = mkdtempSync(join(tmpdir(), 'mutants-'));
const work = join(top, 'contracts');
for (const part of ['src', 'test', 'tools', 'foundry.toml', 'out', 'cache']) {
  cpSync(join(root, part), join(work, part), { recursive: true, preserveTimestamps: true });
}
// It imports every contract, so it would be compiled again for each mutant, and it tests none.
rmSync(join(work, 'test/Gas.t.sol'));
// Hard links: through a symbolic link forge sees other paths and compiles everything again.
spawnSync('cp', ['-al', join(root, 'node_modules'), join(work, 'node_modules')]);
cpSync(join(root, '../crates/primitives/testdata'), join(top, 'crates/primitives/testdata'), { recursive: true });

function test() {
  const env = { ...process.env, FOUNDRY_INVARIANT_RUNS: '2', FOUNDRY_FUZZ_RUNS: '32' };
  const args = ['test', '--fail-fast'];
  return spawnSync(join(work, 'tools/forge'), args, { cwd: work, env, encoding: 'utf8', maxBuffer: 1 << 28 });
}

const clean = test();
if (clean.status !== 0) {
  console.error('the tests fail without a mutant:\n' + clean.stdout.slice(-2000));
  process.exit(1);
}
let survivors = 0;
for (const [i, m] of mutants.entries()) {
  if (i + 1 < first || i + 1 > last) continue;
  const path = join(work, m.file);
  const original = readFileSync(path, 'utf8');
  if (original.split(m.from).length !== 2) throw new Error(`mutant ${i + 1}: not exactly once in ${m.file}: ${m.from}`);
  writeFileSync(path, original.replace(m.from, () => m.to));
  const run = test();
  const broken = /Compiler run failed/.test(run.stdout + run.stderr);
  const by = /\[FAIL[^\n]*\] (\w+)/.exec(run.stdout)?.[1] ?? '';
  const verdict = broken ? 'DOES NOT COMPILE' : run.status === 0 ? 'SURVIVED' : 'killed';
  if (verdict !== 'killed') survivors++;
  console.log(`${String(i + 1).padStart(2)} ${verdict} ${by} | ${m.file}: ${m.from.split('\n')[0]} -> ${m.to.split('\n')[0]}`);
  writeFileSync(path, original);
}
console.log(`${last - first + 1} mutants, ${survivors} not killed`);
process.exitCode = survivors ? 1 : 0;
