#!/bin/sh
# Runs the scenarios, or those whose name has the words given:
#
#	run.sh [WORDS]
set -eu
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)

node=$(./install.sh)/run-node
../deps.sh .
mkdir -p "$root/bin"
: >"$root/bin/vscode-e2e.jsonl"
rm -f "$root"/bin/vscode-shots/FAIL-*
export MIRRORD_E2E_ONLY="${1-}"
run() {
	"$node" --disable-warning=ExperimentalWarning --test --test-concurrency=1 --test-reporter=spec "$@"
}
run scenarios/*.test.ts && exit
# A browser on a busy machine can be late: the suites of what failed are run once more.
again=$(sed -n 's|^{"name":"\([a-z]*\):.*"ok":false.*|scenarios/\1.test.ts|p' "$root/bin/vscode-e2e.jsonl" | sort -u)
[ -n "$again" ] || exit 1
echo "once more: $again" >&2
run $again
