#!/bin/sh
# Compiles the contracts and regenerates abi/ and bytecode/; with --check it fails when they differ from the sources.
set -eu
cd "$(dirname "$0")"
# The native forge of the npm package; its postinstall script is not needed.
forge="node_modules/.bin/forge"
[ -d node_modules ] || npm ci --ignore-scripts --no-audit --no-fund
nice -n 5 "$forge" build --force src
node tools/artifacts.mjs "$@"
