#!/usr/bin/env bash
# Makes an arm64 Debian in FOLDER that this machine runs under qemu's user emulation. As root; needs qemu-user-static and debootstrap.
# Takes about ten minutes once; a folder that is finished is left as it is.
#
#   tools/arm64/make_root.sh FOLDER
set -eu
root=${1:?which folder?}
emulator=$(command -v qemu-aarch64-static) || { echo "install qemu-user-static" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "install debootstrap" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "needs root: it makes device files and enters the folder" >&2; exit 1; }

# The kernel hands aarch64 programs to the emulator; F opens it now, so that it is found from inside the folder too (binfmt_misc).
formats=/proc/sys/fs/binfmt_misc
[ -e $formats/register ] || mount -t binfmt_misc none $formats
if [ ! -e $formats/qemu-aarch64 ]; then
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    echo ":qemu-aarch64:M::$magic:$mask:$emulator:F" >$formats/register
fi

[ -e "$root/.finished" ] && exit 0
if [ ! -e "$root/.unpacked" ]; then
    debootstrap --arch=arm64 --foreign --variant=minbase \
        --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$root"
    touch "$root/.unpacked"
fi
chroot "$root" /debootstrap/debootstrap --second-stage
touch "$root/.finished"
