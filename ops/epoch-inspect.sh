#!/bin/sh
# The table of epochs (`marketswarm epochs show`) by the command of this checkout, from any folder:
#   ops/epoch-inspect.sh [U] [--all] [--json] [--watch]
# Without MARKETSWARM_DATA the data folder is that of this checkout, as with `make up`.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd)
command=$root/.venv/bin/marketswarm

if [ ! -x "$command" ]; then
    echo "epoch-inspect: $command is not there: run \`make install\` in $root" >&2
    exit 2
fi

MARKETSWARM_DATA=${MARKETSWARM_DATA:-$root/.marketswarm}
export MARKETSWARM_DATA
exec "$command" epochs show "$@"
