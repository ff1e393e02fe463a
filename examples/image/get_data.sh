#!/bin/sh
# Fashion-MNIST (MIT) as Debian packages it, into the folder named first; needs no root.
set -eu
to=$(mkdir -p "${1:-fashion-mnist}" && cd "${1:-fashion-mnist}" && pwd)
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cd "$draft"
apt-get download -qq dataset-fashion-mnist
dpkg-deb -x dataset-fashion-mnist_*.deb .
cp usr/share/datasets/fashion-mnist/*.gz "$to"
echo "$to"
