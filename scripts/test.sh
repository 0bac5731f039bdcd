#!/usr/bin/env bash
# Sets everything up and runs the tests. Arguments go to pytest:
#
#   ./scripts/test.sh -k bank
#   ./scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
