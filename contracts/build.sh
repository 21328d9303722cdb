#!/bin/sh
# Compiles the contracts and regenerates abi/ and bytecode/; with --check it fails when they differ from the sources.
set -eu
cd "$(dirname "$0")"
# --force: the compiler then sees all sources at once, as CI does, and the bytecode cannot depend on what was cached.
forge="tools/forge"
[ -d node_modules ] || npm install --no-save --ignore-scripts --no-audit --no-fund
nice -n 5 "$forge" build --force --out artifacts --cache-path artifacts/cache src
node tools/artifacts.mjs "$@"
