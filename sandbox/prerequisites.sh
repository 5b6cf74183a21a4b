#!/usr/bin/env bash
# Makes sure of what the sandbox itself runs on: Python 3.11 or later with venv, an SSH client, git.
#
#   prerequisites.sh PYTHON [command...]     commands that are wanted besides, by the names of their packages
set -euo pipefail
python=${1:-python3}
shift || true

packages=()
command -v "$python" >/dev/null || packages+=(python3)
"$python" -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
command -v ssh-keygen >/dev/null || packages+=(openssh-client)
command -v git >/dev/null || packages+=(git)
command -v ip >/dev/null || packages+=(iproute2)
for command in "$@"; do
  command -v "$command" >/dev/null || packages+=("$command")
done

if [ ${#packages[@]} -gt 0 ]; then
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  if ! command -v apt-get >/dev/null; then
    printf 'Missing on this machine: %s. Install them and run the command again.\n' "${packages[*]}" >&2
    exit 1
  fi
  printf 'Installing %s\n' "${packages[*]}"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  printf '%s is %s. Expected: Python 3.11 or later. Name another one: make PYTHON=python3.12 …\n' "$python" "$("$python" -V 2>&1)" >&2
  exit 1
}
