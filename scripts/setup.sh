#!/usr/bin/env bash
# Makes .venv and installs the locked versions into it, once per version of the lock. Used by demo.sh and test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
  if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "error: no Python 3.11 to 3.13 found (python3 is $(python3 --version 2>&1)); install one, or name it: PYTHON=/path/to/python3.12 $0" >&2
  exit 2
fi

if ! [ -x .venv/bin/python ] || ! cmp -s requirements.lock .venv/requirements.lock; then
  echo "Installing into .venv (once; about a minute) ..."
  "$python" -m venv .venv || { echo "error: could not make .venv; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
  cp requirements.lock .venv/requirements.lock
fi
