#!/usr/bin/env bash
# Gets a mosquitto for the tests into FOLDER, by apt, without root and without installing anything; a system's own is left to be found.
# Never fails: where there is none to be had, the tests that want one are skipped, and the run says so at its end.
#
#   tools/get_mosquitto.sh [FOLDER]      (default: .venv/mosquitto)
set -u
folder=${1:-"$(cd "$(dirname "$0")/.." && pwd)/.venv/mosquitto"}

without() {
    echo "no mosquitto for the tests: $1; what needs it is skipped"
    exit 0
}

PATH=$PATH:/usr/sbin:/usr/local/sbin command -v mosquitto >/dev/null && exit 0
[ -x "$folder/usr/sbin/mosquitto" ] && exit 0
for tool in apt-get dpkg-deb timeout; do command -v $tool >/dev/null || without "this system has no $tool"; done

# apt with lists and archives of its own in a folder that goes away: reading the system's needs no root, writing them does.
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT || without "no temporary folder"
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/debs"
apt() {
    timeout 120 apt-get -qq -o "Dir::State=$work/state" -o Dir::State::status=/var/lib/dpkg/status -o "Dir::Cache=$work/cache" \
        -o "APT::Sandbox::User=$(id -un)" -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 -o Acquire::Retries=1 "$@"
}

echo "setting up $folder: mosquitto for the tests (once)"
apt update >/dev/null 2>&1
# What installing it would bring, beyond what the system has; only simulated.
wanted=$(apt -s install --no-install-recommends mosquitto 2>/dev/null | awk '/^Inst/ {print $2}')
[ -n "$wanted" ] || without "apt knows none"
# shellcheck disable=SC2086  # a list of names
(cd "$work/debs" && apt download $wanted >/dev/null 2>&1) || without "apt cannot download it"
mkdir -p "$folder.part" || without "$folder cannot be written"
for deb in "$work"/debs/*.deb; do
    dpkg-deb -x "$deb" "$folder.part" || without "$deb does not unpack"
done
rm -rf "$folder" && mv "$folder.part" "$folder" || without "$folder cannot be written"
