#!/usr/bin/env bash
# Gets the npm packages that tests/other_language names into FOLDER: an MQTT client, MessagePack, and AsyncAPI's own JSON Schema.
# Never fails: where npm or its registry is not there, the tests that want them are skipped, and the run says so at its end.
#
#   tools/get_node_packages.sh [FOLDER]      (default: .venv/node)
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-"$root/.venv/node"}
from=$root/tests/other_language

without() {
    echo "no npm packages for the tests: $1; what needs them is skipped"
    exit 0
}

command -v node >/dev/null && command -v npm >/dev/null || without "Node.js or npm is not here"
cmp -s "$from/package-lock.json" "$folder/package-lock.json" && [ -d "$folder/node_modules" ] && exit 0
mkdir -p "$folder" && cp "$from/package.json" "$from/package-lock.json" "$folder/" || without "$folder cannot be written"
echo "setting up $folder: npm packages for the tests (once)"
if ! (cd "$folder" && timeout 180 npm ci --no-audit --no-fund --ignore-scripts --loglevel=error --fetch-retries=1 --fetch-timeout=20000 >/dev/null 2>&1); then
    rm -rf "$folder"
    without "npm cannot install them"
fi
