#!/bin/sh
# Builds the Debian packages of the agent and of the hub from programs that are
# built already, bit for bit the same each time:
#
#   deploy/packages/build.sh [FOLDER]      default dist
#
# Environment, each with its default:
#   BIN                folder of swell-agent, swell-hub and swellctl; bin
#   ORT                ONNX Runtime's library; fetched by models/runtime/fetch-onnxruntime.sh
#   VERSION            git describe
#   ARCH               go env GOARCH
#   SOURCE_DATE_EPOCH  time of the last commit; the time of every file inside
#   SWELL_CACHE        ~/.cache/swell; nfpm is installed into its bin
set -eu

nfpm_version=v2.43.4 # newer ones need modules that not every proxy serves

cd "$(dirname "$0")/../.."
out=${1:-dist}
BIN=${BIN:-bin}
ARCH=${ARCH:-$(go env GOARCH)}
SWELL_CACHE=${SWELL_CACHE:-${HOME:?set HOME or SWELL_CACHE}/.cache/swell}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
if [ -z "${VERSION:-}" ]; then
	VERSION=$(git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null || true)
	# Debian wants a digit first, and '~' sorts before every release.
	[ -n "$VERSION" ] || VERSION=0.0.0~$(TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y%m%d).$(git rev-parse --short HEAD)
fi
VERSION=${VERSION#v}

for program in swell-agent swell-hub swellctl; do
	[ -x "$BIN/$program" ] || {
		echo "build packages: $BIN/$program is missing: run make build" >&2
		exit 1
	}
done
if [ -z "${ORT:-}" ]; then
	case $ARCH in
	amd64) ORT=$(models/runtime/fetch-onnxruntime.sh x64) ;;
	arm64) ORT=$(models/runtime/fetch-onnxruntime.sh arm64) ;;
	*)
		echo "build packages: there is no ONNX Runtime for $ARCH: use amd64 or arm64" >&2
		exit 1
		;;
	esac
fi

nfpm=$SWELL_CACHE/bin/nfpm
if [ ! -x "$nfpm" ]; then
	echo "installing nfpm $nfpm_version (once)" >&2
	GOBIN=$SWELL_CACHE/bin go install "github.com/goreleaser/nfpm/v2/cmd/nfpm@$nfpm_version"
fi

export BIN ORT VERSION ARCH SOURCE_DATE_EPOCH
mkdir -p "$out"
for package in agent hub; do
	target=$out/swell-${package}_${VERSION}_$ARCH.deb
	"$nfpm" package --config "deploy/packages/$package.yaml" --packager deb --target "$target" >/dev/null
	echo "$target"
done
