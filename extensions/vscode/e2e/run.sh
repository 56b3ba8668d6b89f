#!/bin/sh
# Runs the scenarios, or those whose name has the words given:
#
#	run.sh [WORDS]
set -eu
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)

node=$(./install.sh)/run-node
if [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
	npm ci --no-audit --no-fund --no-update-notifier --loglevel=error
fi
mkdir -p "$root/bin"
: >"$root/bin/vscode-e2e.jsonl"
rm -f "$root"/bin/vscode-shots/FAIL-*
MIRRORD_E2E_ONLY=${1-} exec "$node" --disable-warning=ExperimentalWarning --test --test-concurrency=1 --test-reporter=spec 'scenarios/*.test.ts'
