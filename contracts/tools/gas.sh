#!/bin/sh
# Measures the ordinary calls and holds them to gas-budget.json (3 % either way); --update accepts what was measured.
set -eu
cd "$(dirname "$0")/.."
tools/forge test --isolate --match-contract GasTest
node tools/gas.mjs "$@"
