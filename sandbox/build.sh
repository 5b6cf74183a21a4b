#!/usr/bin/env bash
# Builds an image of the sandbox and says "changed" when it is another one than before.
#   build.sh NAME FOLDER [docker build's arguments]
set -euo pipefail
name=$1 folder=$2
shift 2
before=$(docker image inspect --format '{{.Id}}' "$name" 2>/dev/null || true)
docker build --quiet --tag "$name" "$@" "$folder" >/dev/null
[ "$before" = "$(docker image inspect --format '{{.Id}}' "$name")" ] || echo changed
