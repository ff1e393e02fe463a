#!/usr/bin/env bash
# Installs a wheel of Outrider, as a device has it (`outrider[cpu]`), into the arm64 Debian that make_root.sh made. As root.
#
#   tools/arm64/install.sh FOLDER WHEEL
set -eu
root=${1:?which folder?} wheel=${2:?which wheel?}
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root/etc/ssl/certs" "$root/opt"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
mountpoint -q "$root/proc" || mount -t proc none "$root/proc"
cp "$wheel" "$root/opt/"
inside="env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8"
for name in http_proxy https_proxy HTTP_PROXY HTTPS_PROXY no_proxy PIP_INDEX_URL; do
    [ -z "${!name:-}" ] || inside="$inside $name=${!name}"
done
[ -x "$root/opt/outrider/bin/python" ] || $inside chroot "$root" python3 -m venv /opt/outrider
$inside PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_DEFAULT_TIMEOUT=180 chroot "$root" \
    /opt/outrider/bin/pip install -q --disable-pip-version-check --only-binary :all: "/opt/$(basename "$wheel")[cpu]"
$inside chroot "$root" /opt/outrider/bin/pip install -q --disable-pip-version-check --no-deps --force-reinstall "/opt/$(basename "$wheel")"
