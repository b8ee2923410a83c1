#!/usr/bin/env bash
# Builds every pinned Kopia (test/interop/kopia/VERSION/go.mod) into .cache/kopia/, those that are not there yet.
#
# From a module file with a `tool` line: `go install PACKAGE@VERSION` would ask the proxy for the list of versions, which
# not every proxy serves. Without Go 1.25 it says so and succeeds: the interop tests then count as skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

needed_minor=25
minor=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p') || minor=
if [ -z "$minor" ] || [ "$minor" -lt "$needed_minor" ]; then
  echo "build-kopia: needs Go 1.$needed_minor or newer, found ${minor:+1.}${minor:-none}; tests against real Kopia will be skipped" >&2
  exit 0
fi

mkdir -p .cache/kopia
for directory in test/interop/kopia/v*/; do
  version=$(basename "$directory")
  binary="$PWD/.cache/kopia/kopia-$version"
  # The stamp is the lock it was built from: a changed pin builds anew.
  stamp=$(cat "$directory/go.mod" "$directory/go.sum" | sha256sum | cut -d' ' -f1)
  if [ -x "$binary" ] && [ "$(cat "$binary.stamp" 2>/dev/null)" = "$stamp" ]; then continue; fi
  echo "build-kopia: building $version"
  (cd "$directory" && GOFLAGS= go build -mod=readonly -buildvcs=false \
    -ldflags "-X github.com/kopia/kopia/repo.BuildVersion=${version#v}" -o "$binary.new" github.com/kopia/kopia)
  mv "$binary.new" "$binary"
  echo "$stamp" >"$binary.stamp"
done
