#!/usr/bin/env bash
# Opens the chat command of one sandbox host.
set -euo pipefail
host=vicuna-sandbox-${1:-gpuless-a}
if [ "$(docker container inspect --format '{{.State.Running}}' "$host" 2>/dev/null)" != true ]; then
  printf 'There is no running host %s. Start the demo first: make demo\n' "${host#vicuna-sandbox-}" >&2
  exit 1
fi
tty=()
[ ! -t 0 ] || tty=(--tty)
exec docker exec --interactive "${tty[@]}" --env TERM="${TERM:-dumb}" "$host" vicuna-chat
