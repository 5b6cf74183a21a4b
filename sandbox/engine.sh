#!/usr/bin/env bash
# A Docker Engine for the sandbox: the one that runs on this machine, or an own one where there is none.
#
#   engine.sh up      find or start an engine, make sure that the base images are there
#   engine.sh env     print the shell settings that reach it (eval "$(engine.sh env)")
#   engine.sh down    stop the own engine; an engine that was here before is left alone
#   engine.sh purge   stop it and remove all that it wrote
#
# The own engine needs Debian and root (or sudo), no systemd. Its programs are unpacked, not installed: they live
# below $SANDBOX_STATE and are gone after `purge`. Debian 13's engine is used because Debian 12's (20.10) cannot start
# privileged containers where CAP_SYS_RESOURCE is withheld, and has no compose v2.
set -euo pipefail

STATE=${SANDBOX_STATE:-/var/lib/vicuna-sandbox}
RUN=${SANDBOX_RUN:-/run/vicuna-sandbox}
CHECKOUT=$(cd "$(dirname "$0")/.." && pwd)
BASES=(bookworm trixie)
ENGINE_SUITE=trixie
ENGINE_PACKAGES=(docker.io docker-cli containerd docker-compose docker-buildx)
# From the machine's own suite: runc (trixie's wants glibc 2.38) and what the engine calls. A library that the machine has is used.
MACHINE_PACKAGES=(runc libseccomp2 iptables libip4tc2 libip6tc2 libxtables12 libnetfilter-conntrack3 libnfnetlink0
  libnftnl11 libmnl0 mmdebstrap)

SUDO=()
[ "$(id -u)" = 0 ] || SUDO=(sudo)

say() { printf 'sandbox: %s\n' "$*" >&2; }
die() {
  printf 'sandbox: %s\n' "$1" >&2
  printf '  expected: %s\n  remedy:   %s\n' "$2" "$3" >&2
  exit 1
}

# What was running before the sandbox counts, whatever DOCKER_HOST or context it is reached by.
foreign_engine() { [ ! -S "$RUN/docker.sock" ] && docker info >/dev/null 2>&1; }
own_docker() { DOCKER_HOST="unix://$RUN/docker.sock" DOCKER_CONFIG="$STATE/config" "$STATE/bin/docker" "$@"; }
own_engine() { [ -S "$RUN/docker.sock" ] && own_docker info >/dev/null 2>&1; }

print_env() {
  # For image builds in the sandbox: the inventory would have to start pip for each host.
  local index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
  [ -z "$index" ] || printf 'export PIP_INDEX_URL=%q\n' "$index"
  foreign_engine || printf 'export PATH=%q DOCKER_HOST=unix://%s/docker.sock DOCKER_CONFIG=%s/config\n' "$STATE/bin:$PATH" "$RUN" "$STATE"
}

wait_for() { # seconds, command...
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.2
  done
}

# The mirror that apt on this machine already uses for Debian's own archive.
debian_mirror() {
  # shellcheck disable=SC2016 # the fields are apt's, not the shell's
  apt-get indextargets --format '$(SITE) $(REPO_URI) $(ORIGIN) $(SUITE)' 2>/dev/null |
    awk '$3 == "Debian" && $4 !~ /security|updates|backports/ { print $2; exit }'
}

download() { # suite package...
  local suite=$1 apt="$STATE/apt-$1"
  shift
  "${SUDO[@]}" mkdir -p "$apt"/{lists/partial,archives/partial} "$STATE/debs"
  "${SUDO[@]}" tee "$apt/sources.list" >/dev/null <<<"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $suite main"
  "${SUDO[@]}" tee "$apt/apt.conf" >/dev/null <<EOF
Dir::State "$apt"; Dir::State::lists "$apt/lists"; Dir::Cache "$apt"; Dir::Cache::archives "$apt/archives";
Dir::State::status "/var/lib/dpkg/status"; Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "-";
APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::Retries "3";
EOF
  "${SUDO[@]}" env APT_CONFIG="$apt/apt.conf" apt-get update -qq
  (cd "$STATE/debs" && "${SUDO[@]}" env APT_CONFIG="$apt/apt.conf" apt-get download -qq "${@/%//$suite}")
}

unpack_engine() {
  [ ! -e "$STATE/unpacked" ] || return 0
  # shellcheck source=/dev/null
  . /etc/os-release
  [ "${ID:-}" = debian ] || die "no Docker Engine answers on this machine (${PRETTY_NAME:-unknown system})" \
    "a running engine, or Debian, where the sandbox can bring its own" "install and start Docker, then run the command again"
  MIRROR=$(debian_mirror)
  if [ -z "$MIRROR" ]; then
    "${SUDO[@]}" apt-get update -qq
    MIRROR=$(debian_mirror)
  fi
  [ -n "$MIRROR" ] || die "apt knows no Debian archive" "an entry for Debian's main archive in /etc/apt" "add one, then run apt-get update"
  say "no Docker Engine is running: fetching one from Debian's archive (about 80 MB, 20 s)"
  download "$ENGINE_SUITE" "${ENGINE_PACKAGES[@]}"
  download "$VERSION_CODENAME" "${MACHINE_PACKAGES[@]}"
  "${SUDO[@]}" rm -rf "$STATE/x" "$STATE/bin"
  "${SUDO[@]}" mkdir -p "$STATE"/{x,bin,config/cli-plugins,log}
  local deb
  for deb in "$STATE"/debs/*.deb; do "${SUDO[@]}" dpkg-deb -x "$deb" "$STATE/x"; done
  "${SUDO[@]}" ln -sf "$STATE"/x/usr/libexec/docker/cli-plugins/* "$STATE/config/cli-plugins/"
  local program
  for program in sbin/dockerd sbin/docker-proxy bin/docker bin/containerd bin/containerd-shim-runc-v2 bin/ctr bin/mmdebstrap bin/mmtarfilter; do
    [ ! -e "$STATE/x/usr/$program" ] || "${SUDO[@]}" ln -sf "$STATE/x/usr/$program" "$STATE/bin/${program#*/}"
  done
  # iptables and runc find their libraries beside them; the names that iptables answers to come from its postinst.
  local lib
  lib=$(dirname "$(find "$STATE/x/usr/lib" -name 'libxtables.so.12' -print -quit)")
  for program in runc iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    local run="\"$STATE/x/usr/sbin/xtables-nft-multi\" $program"
    [ $program != runc ] || run="\"$STATE/x/usr/sbin/runc\""
    "${SUDO[@]}" tee "$STATE/bin/$program" >/dev/null <<EOF
#!/bin/sh
export LD_LIBRARY_PATH="$lib" XTABLES_LIBDIR="$lib/xtables"
exec $run "\$@"
EOF
    "${SUDO[@]}" chmod 0755 "$STATE/bin/$program"
  done
  # The settings file of the CLI is the invoking user's.
  "${SUDO[@]}" chown -R "$(id -u):$(id -g)" "$STATE/config"
  "${SUDO[@]}" touch "$STATE/unpacked"
}

start_engine() {
  own_engine && return 0
  local mtu device
  device=$(ip -o route show default 2>/dev/null | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }')
  mtu=$(cat "/sys/class/net/${device:-lo}/mtu" 2>/dev/null || echo 1500)
  [ "$mtu" -le 1500 ] || mtu=1500
  "${SUDO[@]}" mkdir -p "$RUN" "$STATE/docker"
  "${SUDO[@]}" rm -f "$RUN/docker.pid" "$RUN/docker.sock"
  # An engine leaves its packet filter rules and forwarding on: what was before is kept for `purge`.
  if [ ! -e "$STATE/before/ip_forward" ]; then
    "${SUDO[@]}" mkdir -p "$STATE/before"
    local tool
    for tool in iptables ip6tables; do "${SUDO[@]}" "$STATE/bin/$tool-save" 2>/dev/null | "${SUDO[@]}" tee "$STATE/before/$tool" >/dev/null; done
    "${SUDO[@]}" tee "$STATE/before/ip_forward" </proc/sys/net/ipv4/ip_forward >/dev/null
  fi
  say "starting the sandbox's own Docker Engine (log: $STATE/log/dockerd.log)"
  # Nothing of the caller's stays open in the engine: a pipe behind `make demo` would otherwise never end.
  # Its directory is not the checkout, which may be removed while it runs: what it starts would fail from then on.
  # shellcheck disable=SC2016 # expanded by the inner shell
  "${SUDO[@]}" env --chdir=/ PATH="$STATE/bin:$PATH:/usr/sbin:/sbin" setsid bash -c 'log=$1; shift; exec "$@" >"$log" 2>&1 </dev/null &' \
    start "$STATE/log/dockerd.log" "$STATE/bin/dockerd" \
    --host "unix://$RUN/docker.sock" --group "$(id -gn)" --data-root "$STATE/docker" --exec-root "$RUN/exec" \
    --pidfile "$RUN/docker.pid" --mtu "$mtu" --bip 10.201.0.1/24 --default-address-pool base=10.202.0.0/16,size=24
  wait_for 60 own_engine ||
    die "the engine did not answer within 60 s: $(tail -n 1 "$STATE/log/dockerd.log")" "dockerd to listen on $RUN/docker.sock" \
      "read $STATE/log/dockerd.log; an unprivileged container cannot run an engine"
}

make_base() { # suite: from Debian's archive, where no registry has it
  local tar="$STATE/$1.tar" log="$STATE/log/$1.log"
  "${SUDO[@]}" env PATH="$PATH" mmdebstrap --quiet --mode=root --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$1" "$tar" "$MIRROR" 2>&1 | "${SUDO[@]}" tee "$log" >/dev/null ||
    die "mmdebstrap failed: $(tail -n 1 "$log")" "Debian's archive at $MIRROR" "read $log"
  docker import -c 'CMD ["bash"]' "$tar" "debian:$1-slim" >/dev/null
  "${SUDO[@]}" rm -f "$tar"
}

base_images() {
  local suite image missing=() pid pids=()
  for suite in "${BASES[@]}"; do
    image=debian:$suite-slim
    docker image inspect "$image" >/dev/null 2>&1 && continue
    if timeout 120 docker pull -q "$image" >/dev/null 2>&1; then
      # So that cleaning up takes along what was not here before.
      mkdir -p "$CHECKOUT/.sandbox" && echo "$image" >>"$CHECKOUT/.sandbox/pulled"
    else
      missing+=("$suite")
    fi
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v mmdebstrap >/dev/null ||
    die "the images of Debian ${missing[*]} can neither be pulled nor made" "a registry that has debian:SUITE-slim, or mmdebstrap" \
      "pull them, or install mmdebstrap"
  MIRROR=${MIRROR:-$(debian_mirror)}
  say "no registry has the base images: making Debian ${missing[*]} from Debian's archive (40 s)"
  "${SUDO[@]}" mkdir -p "$STATE/log"
  for suite in "${missing[@]}"; do
    make_base "$suite" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
}

up() {
  if foreign_engine; then
    say "using the Docker Engine that runs here ($(docker version --format '{{.Server.Version}}'))"
  else
    [ ${#SUDO[@]} = 0 ] || command -v sudo >/dev/null || die "no Docker Engine answers, and you are not root" "root or sudo" "run as root"
    unpack_engine
    start_engine
    eval "$(print_env)"
  fi
  base_images
}

down() {
  [ -f "$RUN/docker.pid" ] || return 0
  local pid
  pid=$(cat "$RUN/docker.pid")
  say "stopping the sandbox's own Docker Engine"
  "${SUDO[@]}" kill "$pid" 2>/dev/null || true
  wait_for 60 bash -c "! kill -0 $pid 2>/dev/null && [ ! -e /proc/$pid ]" || "${SUDO[@]}" kill -9 "$pid"
}

restore_network() {
  [ -e "$STATE/before/ip_forward" ] || return 0
  local tool table
  for tool in iptables ip6tables; do
    for table in nat filter; do
      "${SUDO[@]}" "$STATE/bin/$tool" -t "$table" -F && "${SUDO[@]}" "$STATE/bin/$tool" -t "$table" -X
    done
    "${SUDO[@]}" "$STATE/bin/$tool" -P FORWARD ACCEPT
    "${SUDO[@]}" "$STATE/bin/$tool-restore" <"$STATE/before/$tool"
  done 2>/dev/null || say "the engine's packet filter rules could not all be removed"
  "${SUDO[@]}" tee /proc/sys/net/ipv4/ip_forward <"$STATE/before/ip_forward" >/dev/null
}

purge() {
  down
  [ -d "$STATE" ] || [ -d "$RUN" ] || return 0
  restore_network
  # What a killed engine left mounted would otherwise survive the removal.
  awk -v a="$STATE/" -v b="$RUN/" 'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/mounts | sort -r |
    xargs -r "${SUDO[@]}" umount -l
  "${SUDO[@]}" rm -rf "$STATE" "$RUN"
  local link
  for link in $(ip -o link show type bridge 2>/dev/null | awk -F': ' '{ print $2 }'); do
    if ip -o -4 addr show dev "$link" | grep -qE 'inet 10\.20[12]\.'; then "${SUDO[@]}" ip link delete "$link"; fi
  done
}

case ${1:-} in
  up) up ;;
  env) print_env ;;
  down) down ;;
  purge) purge ;;
  *)
    sed -n '2,10p' "$0" >&2
    exit 2
    ;;
esac
