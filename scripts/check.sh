#!/usr/bin/env bash
# Every static check, each to its end, so that one run shows everything. check.sh BIN: the folder with the tools.
set -u
cd "$(dirname "$0")/.."
bin=${1:-.venv/bin}
failed=()

step() {
    local name=$1
    shift
    if out=$("$@" 2>&1); then
        printf 'ok    %s\n' "$name"
    else
        printf 'FAIL  %s\n%s\n' "$name" "$out"
        failed+=("$name")
    fi
}

step 'ruff check' "$bin/ruff" check --quiet .
step 'ruff format' "$bin/ruff" format --check --quiet .
step 'mypy (strict)' "$bin/mypy" --no-error-summary
step 'import-linter' env PYTHONPATH=. "$bin/lint-imports" --no-cache
step 'codespell' "$bin/codespell" --quiet-level=2

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[*]}"
    exit 1
fi
echo 'all checks passed'
