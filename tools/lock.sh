#!/usr/bin/env bash
# Resolve pyproject.toml into the two locks: exact versions and hashes for Python 3.11 to 3.13 on Linux and macOS.
#
# Versions that still fit stay. To take newer ones, remove both locks first.

set -euo pipefail
cd "$(dirname "$0")/.."

resolve() {
  .venv/bin/uv --no-config --quiet pip compile --universal --python-version 3.11 --group build \
    --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
}

resolve pyproject.toml --extra dev --extra bench --output-file requirements-dev.lock
# Users get the versions that the tests ran with.
resolve pyproject.toml --constraints requirements-dev.lock --output-file requirements.lock
echo "$(grep -c '^[a-z0-9].*==' requirements.lock) packages for users, $(grep -c '^[a-z0-9].*==' requirements-dev.lock) for developers"
