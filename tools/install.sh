#!/usr/bin/env bash
# Make .venv hold exactly what a lock says, with the project installed editable. Instant when it already does.
#
# usage: tools/install.sh base|dev      PYTHON=… names the interpreter to make .venv with

set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:?base or dev}
case $kind in
  base) lock=requirements.lock ;;
  dev) lock=requirements-dev.lock ;;
  *) echo "$0: base or dev, not '$kind'" >&2 && exit 2 ;;
esac
venv=.venv
python=$venv/bin/python

refuse() {
  { echo && printf '  %s\n' "$@" && echo; } >&2
  exit 1
}

# A .venv remembers its folder, so a copied one is not ours; the lock and pyproject.toml decide all the rest.
state() { { pwd && cat "$1" pyproject.toml; } | cksum; }

holds() {
  local stamp=$venv/.holds-$1 lock=$2
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(state "$lock")" ] && "$python" -c pass 2>/dev/null
}

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
between() { "$1" -c "import sys; raise SystemExit(not ($2 <= sys.version_info[:2] <= $3))" 2>/dev/null; }

# The first interpreter that the lock was made for; failing that, a newer one.
find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    between "$PYTHON" '(3, 11)' '(3, 99)' && echo "$PYTHON" && return
    refuse "PYTHON=$PYTHON is $(version_of "$PYTHON" || echo 'not a Python'); auditlog needs Python 3.11 or newer."
  fi
  for name in python3 python3.13 python3.12 python3.11; do
    between "$name" '(3, 11)' '(3, 13)' && echo "$name" && return
  done
  between python3 '(3, 11)' '(3, 99)' && echo python3 && return
  refuse "auditlog needs Python 3.11 or newer; python3 here is $(version_of python3 || echo 'missing')." \
    "Install one (Debian, Ubuntu: apt install python3.12 python3.12-venv; macOS: brew install python@3.12)," \
    "or name one that is installed elsewhere: make PYTHON=/path/to/python3.12 install"
}

make_venv() {
  local found
  found=$(find_python)
  if ! "$found" -c 'import ensurepip, venv' 2>/dev/null; then
    refuse "$found ($(version_of "$found")) can't make a virtual environment: its modules venv and ensurepip are missing." \
      "On Debian and Ubuntu they are a package of their own: apt install python$(version_of "$found" | cut -d. -f1,2)-venv"
  fi
  echo "Making $venv with Python $(version_of "$found")"
  "$found" -m venv --clear "$venv"
}

# One line a package while pip works: it says nothing for a long time otherwise, or far too much.
progress() {
  awk -v total="$1" '/^Collecting / { printf "  %3d/%d %s\n", ++n, total, $2; fflush() }'
}

install() {
  local total
  total=$(grep -c '^[a-z0-9].*==' "$lock")
  echo "Installing what $lock lists ($total packages) into $venv"
  "$python" -m pip --disable-pip-version-check --no-input install --progress-bar off --require-hashes -r "$lock" |
    progress "$total"
  "$python" -m pip --disable-pip-version-check --no-input install --quiet --no-deps --no-build-isolation -e .
  "$python" -m pip check >/dev/null || refuse "$lock is not what pyproject.toml asks for: make lock"
  state "$lock" >"$venv/.holds-$kind"
}

if holds "$kind" "$lock" || { [ "$kind" = base ] && holds dev requirements-dev.lock; }; then
  exit 0
fi
started=$SECONDS
if ! [ -f "$venv/.made-in" ] || [ "$(cat "$venv/.made-in")" != "$PWD" ] || ! between "$python" '(3, 11)' '(3, 99)'; then
  make_venv
  echo "$PWD" >"$venv/.made-in"
fi
install
echo "Ready in $((SECONDS - started)) s"
