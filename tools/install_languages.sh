#!/bin/sh
# Installs what the examples in other languages are built with, as root: Debian's packages. Debian 12 has a grpc for Go
# that lacks what today's programs call; the one of Debian 13 is unpacked, with its compiler, into build/go, where
# tools/build_client.sh looks for it. Half a gigabyte, and a minute or two.
set -eu
cd "$(dirname "$0")/.."
apt-get -qq update
apt-get -qq install --yes --no-install-recommends protobuf-compiler libprotobuf-dev \
    g++ pkgconf libgrpc++-dev protobuf-compiler-grpc \
    default-jdk-headless libprotobuf-java libgrpc-java protobuf-compiler-grpc-java-plugin \
    libnetty-java libnetty-tcnative-java libnetty-tcnative-jni libperfmark-java libguava-java libgoogle-gson-java \
    libgoogle-common-protos-java libgeronimo-annotation-1.3-spec-java

[ ! -d build/go ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/sources" "$work/cache/archives/partial" "$work/packages" "$work/go"
chmod 755 "$work"
mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
    sed -nE 's/^URIs: *([^ ]+debian)\/?$/\1/p; s/^deb (\[[^]]*\] )?([^ ]+debian)\/? .*/\2/p' | head -1)
cat >"$work/sources/newer.sources" <<END
Types: deb
URIs: $mirror
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
newer() {
    apt-get -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o Dir::State::status=/dev/null \
        -o APT::Sandbox::User=root "$@"
}
newer update
(
    cd "$work/packages"
    newer download golang-1.24-go golang-1.24-src protoc-gen-go-1-5 protoc-gen-go-grpc golang-google-grpc-dev \
        golang-google-genproto-dev golang-google-protobuf-dev golang-github-golang-protobuf-1-5-dev \
        golang-golang-x-net-dev golang-golang-x-sys-dev golang-golang-x-text-dev
)
for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/go"; done
mkdir -p build
mv "$work/go" build/go
