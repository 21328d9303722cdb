// Tries the mutants of tools/mutants.txt: each removes or bends one guard in a copy of this folder, where the tests must
// then fail. Writes what killed each into MUTANTS.md; exits 1 when one survives. Usage: node tools/mutate.mjs [number | first-last]..
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const record = join(root, 'MUTANTS.md');
const unescape = (s) => s.trim().replaceAll('\\n', '\n').replaceAll('\\|', '|');
const mutants = readFileSync(join(root, 'tools/mutants.txt'), 'utf8')
  .split('\n')
  .filter((line) => line && !line.startsWith('#'))
  .map((line) => line.split(/ \|(?: |$)/))
  .map(([file, from, to]) => ({ file: `src/${file.trim()}`, from: unescape(from), to: unescape(to ?? '') }));
const ranges = process.argv.slice(2).map((range) => range.split('-').map(Number));
const wanted = (number) => !ranges.length || ranges.some(([first, last = first]) => first <= number && number <= last);
for (const [i, m] of mutants.entries()) {
  const found = readFileSync(join(root, m.file), 'utf8').split(m.from).length - 1;
  if (found !== 1) throw new Error(`mutant ${i + 1}: ${found} times, not once, in ${m.file}: ${m.from}`);
}

// Laid out as in the repository, because the tests read the vectors beside this folder. Kept, with what was compiled.
const top = join(root, 'artifacts/mutants');
const work = join(top, 'contracts');
for (const part of ['src', 'test', 'tools', 'foundry.toml']) {
  rmSync(join(work, part), { recursive: true, force: true });
  cpSync(join(root, part), join(work, part), { recursive: true });
}
// Two import every contract, so they would be compiled again for each mutant; none of them tests what is mutated.
for (const slow of ['Gas', 'Deploy', 'Draw']) rmSync(join(work, `test/${slow}.t.sol`), { force: true });
// Hard links: through a symbolic link forge sees other paths and compiles everything again.
if (!existsSync(join(work, 'node_modules'))) spawnSync('cp', ['-al', join(root, 'node_modules'), work]);
cpSync(join(root, '../crates/primitives/testdata'), join(top, 'crates/primitives/testdata'), { recursive: true });

// Unfiltered: for a filtered run forge compiles what the chosen tests import, and they import no contract.
function forge(settings) {
  const env = { ...process.env, FOUNDRY_PROFILE: 'mutants', ...settings };
  const args = ['test', '--fail-fast'];
  return spawnSync(join(work, 'tools/forge'), args, { cwd: work, env, encoding: 'utf8', maxBuffer: 1 << 28 });
}
// Long runs are for what short ones let live.
function test() {
  const short = forge({ FOUNDRY_FUZZ_RUNS: '4', FOUNDRY_INVARIANT_RUNS: '1', FOUNDRY_INVARIANT_DEPTH: '20' });
  return short.status === 0 ? forge({}) : short;
}

// Rows of earlier runs stay where this one does not try the mutant again.
const rows = new Map();
if (existsSync(record)) {
  for (const line of readFileSync(record, 'utf8').split('\n')) {
    const number = Number(/^\| (\d+) \|/.exec(line)?.[1]);
    if (number) rows.set(number, line);
  }
}
const code = (text) => (text ? `\`${text.split('\n').map((line) => line.trim()).join(' ').replaceAll('|', '\\|')}\`` : 'nothing');
function write() {
  const table = mutants.map((_, i) => rows.get(i + 1)).filter(Boolean);
  const killed = table.filter((row) => !/\*\*/.test(row)).length;
  const head = `# Mutants

\`node tools/mutate.mjs\` wrote this: ${table.length} of ${mutants.length} mutants tried, ${killed} killed.

| | file | instead of | stands | killed by |
|---|---|---|---|---|
`;
  writeFileSync(record, head + table.join('\n') + '\n');
}

const clean = test();
if (clean.status !== 0) {
  console.error('the tests fail without a mutant:\n' + clean.stdout.slice(-2000) + clean.stderr.slice(-2000));
  process.exit(1);
}
let tried = 0;
let survivors = 0;
for (const [i, m] of mutants.entries()) {
  if (!wanted(i + 1)) continue;
  tried++;
  const path = join(work, m.file);
  const original = readFileSync(path, 'utf8');
  writeFileSync(path, original.replace(m.from, () => m.to));
  const run = test();
  writeFileSync(path, original);
  // An invariant's name follows the calls that broke it.
  const by = (/\[FAIL[^\n]*\] (\w+)\(/.exec(run.stdout) ?? /\[FAIL[\s\S]*?\b(invariant_\w+)\(/.exec(run.stdout))?.[1];
  const verdict = run.status === 0 ? '**survived**' : by ? `\`${by}\`` : '**did not compile**';
  if (run.status === 0 || !by) survivors++;
  rows.set(i + 1, `| ${i + 1} | ${m.file.slice(4)} | ${code(m.from)} | ${code(m.to)} | ${verdict} |`);
  console.log(rows.get(i + 1));
  write();
}
console.log(`${tried} mutants, ${survivors} not killed`);
process.exitCode = survivors ? 1 : 0;
