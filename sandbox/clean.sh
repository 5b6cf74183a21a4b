#!/usr/bin/env bash
# Removes the sandbox: hosts, hub, volumes, network, images and the own engine. An engine that was here before stays.
set -euo pipefail
cd "$(dirname "$0")"
eval "$(./engine.sh env)"
if docker info >/dev/null 2>&1; then
  docker ps --quiet --filter name=^vicuna-sandbox- | xargs -r docker kill >/dev/null
  # An own engine goes as a whole, which is quicker.
  if [[ ${DOCKER_HOST:-} != *vicuna-sandbox* ]]; then
    docker ps --all --quiet --filter name=^vicuna-sandbox- | xargs -r docker rm --force --volumes >/dev/null
    docker volume ls --quiet --filter name=^vicuna-sandbox- | xargs -r docker volume rm >/dev/null
    docker network ls --quiet --filter name=^vicuna-sandbox$ | xargs -r docker network rm >/dev/null
    docker images --quiet 'vicuna-sandbox-*' | sort -u | xargs -r docker rmi --force >/dev/null
    [ ! -f ../.sandbox/pulled ] || xargs -r docker rmi >/dev/null <../.sandbox/pulled || true # another image may stand on it
  fi
fi
./engine.sh purge
rm -f host/ca-certificates/*.crt hub/ca-certificates/*.crt
rm -rf "${XDG_CACHE_HOME:-$HOME/.cache}/vicuna.fleet"
