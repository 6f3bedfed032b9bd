#!/bin/sh
# Fetches the ONNX Runtime shared library once into a cache folder, from the npm package that carries
# the build our binding needs (API 24). The archive and the extracted file are both checked against
# pinned digests, so a mirror or a proxy cannot hand us another library.
#
#   fetch-onnxruntime.sh [x64|arm64]     default: this machine
#
# Prints the library's path. Does nothing when a file with the right digest is already there.
# SWELL_CACHE moves the cache folder (default: $HOME/.cache/swell).
set -eu

version=1.24.1
package="onnxruntime-node@$version"
archive_sha512=131fe851729d843a31be5371053de862d5b4307f3cc98a4f95741e550517a5c25098ddb8bac77ff110a83cb3799021f00ec899fa7aac9e3722c85465e36ddd43
sha256_x64=53ef1ac028dd1b05554b8da28d9159eb3876f99868193d2aaa6e67f0243c23d4
sha256_arm64=7954e8bdedb497f830c6a679e818d98399b7f4d81ade1126c3e0be74d28111ab

fail() {
	echo "fetch-onnxruntime: $*" >&2
	exit 1
}

arch=${1:-}
if [ -z "$arch" ]; then
	case $(uname -m) in
	x86_64 | amd64) arch=x64 ;;
	aarch64 | arm64) arch=arm64 ;;
	*) fail "no ONNX Runtime build for $(uname -m): only x86-64 and 64-bit ARM Linux are supported" ;;
	esac
fi

cache=${SWELL_CACHE:-${HOME:?set HOME or SWELL_CACHE}/.cache/swell}/onnxruntime/$version
case $arch in
x64) want=$sha256_x64 dir=$cache ;;
arm64) want=$sha256_arm64 dir=$cache/arm64 ;;
*) fail "unknown architecture $arch: say x64 or arm64" ;;
esac
target=$dir/libonnxruntime.so.1

sum() { "$1" "$2" | cut -d' ' -f1; }

if [ -f "$target" ] && [ "$(sum sha256sum "$target")" = "$want" ]; then
	echo "$target"
	exit 0
fi

command -v npm >/dev/null || fail "npm is not installed: install Node.js 20 or newer, or set SWELL_ONNXRUNTIME to a libonnxruntime.so.1 of version $version"
mkdir -p "$dir" || fail "cannot create $dir: set SWELL_CACHE to a folder you may write to"

# The work folder sits beside the target, so that the last step is a rename within one file system.
work=$(mktemp -d "$dir/.fetch-XXXXXX") || fail "cannot write to $dir"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

(cd "$work" && npm pack --loglevel=error "$package" >npm.out 2>npm.err) || {
	cat "$work/npm.err" >&2
	fail "npm pack $package failed: check the network and npm's registry and proxy settings (npm config get registry)"
}
archive=$work/onnxruntime-node-$version.tgz
[ -f "$archive" ] || fail "npm pack $package left no archive"
got=$(sum sha512sum "$archive")
[ "$got" = "$archive_sha512" ] || fail "the archive of $package is not the pinned one: sha512 $got, want $archive_sha512"

member=package/bin/napi-v6/linux/$arch/libonnxruntime.so.1
tar -xzf "$archive" -C "$work" "$member" || fail "the archive of $package has no $member"
got=$(sum sha256sum "$work/$member")
[ "$got" = "$want" ] || fail "$member is not the pinned file: sha256 $got, want $want"

chmod 0644 "$work/$member"
mv -f "$work/$member" "$target" || fail "cannot write $target"
echo "$target"
