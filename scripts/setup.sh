#!/usr/bin/env bash
# Makes .venv and installs the locked versions into it, once per version of the lock. A .venv that
# is there, as of `uv sync`, is kept. The scripts demo.sh, digits_mae.sh and test.sh begin with it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
# The one of an environment that is there comes first: uv's may be no program of the system.
for candidate in "${PYTHON:-}" .venv/bin/python python3 python3.13 python3.12 python3.11; do
  if [ -n "$candidate" ] && "$candidate" -c "$fits" 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  found=$(python3 --version 2>&1) || found="not there"
  advice="install one, or name it: PYTHON=/path/to/python3.12 $0"
  echo "error: no Python 3.11 to 3.13 found (python3 is $found); $advice" >&2
  exit 2
fi

# Without pytest, a `uv sync --no-dev` has taken out what was installed here.
if ! [ -x .venv/bin/pytest ] || ! cmp -s requirements.lock .venv/requirements.lock; then
  echo "Installing into .venv (once; two minutes at most) ..."
  if [ -d .venv ]; then
    if ! .venv/bin/python -c "$fits" 2>/dev/null; then
      echo "error: .venv has no Python 3.11 to 3.13; remove it (rm -r .venv), and try again" >&2
      exit 2
    fi
    # uv makes environments without pip.
    if ! .venv/bin/python -c "import pip" 2>/dev/null &&
      ! .venv/bin/python -m ensurepip --default-pip >/dev/null; then
      echo "error: .venv has no pip; remove it (rm -r .venv), and try again" >&2
      exit 2
    fi
  elif ! "$python" -m venv .venv; then
    echo "error: could not make .venv; on Debian or Ubuntu: apt install python3-venv" >&2
    exit 2
  fi
  install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
  # uv takes a part of pip's time. It does not read pip's settings, so pip stands behind it. Both
  # compile the packages here and now: many containers forbid Python to write bytecode
  # (PYTHONDONTWRITEBYTECODE), and each program would compile them anew, for some ten seconds.
  with_uv() {
    install uv &&
      .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python "$@"
  }
  with_uv -r requirements.lock 2>/dev/null || install -r requirements.lock
  cp requirements.lock .venv/requirements.lock
fi
