#!/usr/bin/env bash
# Builds the pinned grpcurl (test/interop/grpcurl/go.mod) into .cache/grpcurl, if it is not there yet.
#
# Without Go 1.25 it says so and succeeds: the tests with grpcurl then count as skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

needed_minor=25
minor=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p') || minor=
if [ -z "$minor" ] || [ "$minor" -lt "$needed_minor" ]; then
  echo "build-grpcurl: needs Go 1.$needed_minor or newer, found ${minor:+1.}${minor:-none}; tests with grpcurl will be skipped" >&2
  exit 0
fi

binary="$PWD/.cache/grpcurl"
# The stamp is the lock it was built from: a changed pin builds anew.
stamp=$(cat test/interop/grpcurl/go.mod test/interop/grpcurl/go.sum | sha256sum | cut -d' ' -f1)
if [ -x "$binary" ] && [ "$(cat "$binary.stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
echo "build-grpcurl: building"
mkdir -p .cache
(cd test/interop/grpcurl && GOFLAGS= go build -mod=readonly -buildvcs=false -o "$binary.new" github.com/fullstorydev/grpcurl/cmd/grpcurl)
mv "$binary.new" "$binary"
echo "$stamp" >"$binary.stamp"
