#!/usr/bin/env bash
# The directory's bench beside BullMQ on a real Redis, in one run: processor time, microseconds a job, and the ratio. Needs
# Linux, redis-server, node, npm. A job of ours is a draw, its four events (submitted, acknowledged, completed, released,
# each in another block) applied with what the journal is given, its part of those blocks' snapshots, and that it is
# forgotten; a job of BullMQ's is added, taken and completed. BullMQ also writes to Redis's memory; ours is measured up to the bytes that the journal then writes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
redis=
trap '[ -z "$redis" ] || kill "$redis"; rm -rf "$work"' EXIT
cp "$here/package.json" "$here/bullmq.mjs" "$work"
(cd "$work" && npm install --silent --no-audit --no-fund --ignore-scripts)
port=$(node -e 'const s=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})')
redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no --dir "$work" >"$work/redis.log" &
redis=$!
cd "$here/../.."
target=${CARGO_TARGET_DIR:-$(cargo metadata --format-version 1 --no-deps | node -pe 'JSON.parse(require("fs").readFileSync(0)).target_directory')}
# As the whole workspace is built: with one crate alone, dependencies have other features and are built anew.
cargo bench --workspace --locked --bench directory -- --noplot
bullmq=$(cd "$work" && REDIS_PORT=$port node bullmq.mjs)
node - "$target" "$bullmq" <<'JS'
const [target, bullmq] = process.argv.slice(2);
const fs = require("fs");
const group = `${target}/criterion/directory of 100,000 workers`;
const micros = (name) => JSON.parse(fs.readFileSync(`${group}/${name}/new/estimates.json`)).median.point_estimate / 1000;
const block = micros("block of 10,000 events"), draw = micros("draw"), snapshot = micros("snapshot after such a block");
const heard = micros("snapshot after such a block and heartbeats");
const ours = (block + snapshot) / 2500 + draw;
console.log(`block of 10,000 events   ${(block / 1000).toFixed(1)} ms`);
console.log(`snapshot after it        ${(snapshot / 1000).toFixed(1)} ms, with the heartbeats of 13,334 workers ${(heard / 1000).toFixed(1)} ms`);
console.log(`draw                     ${draw.toFixed(2)} us`);
console.log(`a job, all of it         ${ours.toFixed(2)} us`);
const [processor, elapsed] = bullmq.split(" ").map(Number);
console.log(`BullMQ, a job            ${processor} us (node and Redis together; ${elapsed} us went by)`);
console.log(`ratio                    ${(processor / ours).toFixed(1)}`);
JS
