#!/usr/bin/env bash
# The whole way on a machine with an NVIDIA GPU, without a network: plan, deployment, answer, load.
# Run it as root; README.md beside it says what the machine needs.
#
#   run.sh prepare    engine, CDI specification, a random model of 7B's shape in a git-lfs repository, images
#   run.sh plan       playbooks/preflight.yml
#   run.sh deploy     site.yml, twice
#   run.sh load       full contexts at the planned concurrency; the plan against nvidia-smi
#   run.sh identity   an adapter, and one over 4-bit weights, trained, merged and asked; needs no engine
#   run.sh train      a few steps of each method at Vicuna 7B's shape, and of FastChat's own script; needs no engine
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export GPU_TEST_MODELS=${GPU_TEST_MODELS:-/dev/shm/models}
export GPU_TEST_SITE=${GPU_TEST_SITE:-/tmp/site}
shape=${GPU_TEST_SHAPE:-vicuna-7b-16k}
report=reports/preflight.json
export ANSIBLE_CONFIG=$PWD/ansible.cfg ANSIBLE_LOCALHOST_WARNING=false

prepare() {
  local model=$GPU_TEST_MODELS/lmsys/vicuna-7b-random
  install -d /etc/cdi /etc/docker
  "$here/cdi_spec.py" --driver-folder "${GPU_TEST_DRIVER:-/usr/local/nvidia}" >/etc/cdi/nvidia.json
  [ -e /etc/docker/daemon.json ] || printf '{"features": {"cdi": true}}\n' >/etc/docker/daemon.json
  if ! docker info >/dev/null 2>&1; then
    setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &
    for _ in $(seq 60); do docker info >/dev/null 2>&1 && break || sleep 0.5; done
  fi
  if [ ! -d "$model/.git" ]; then
    PYTHONPATH=$GPU_TEST_SITE "$here/make_model.py" --shape "$shape" --out "$model"
    git -C "$model" init --quiet --initial-branch main
    git -C "$model" lfs install --local >/dev/null
    git -C "$model" lfs track '*.safetensors' tokenizer.model >/dev/null
    git -C "$model" add .
    git -C "$model" -c user.name=gpu-test -c user.email=gpu-test@invalid commit --quiet --message "Random weights"
  fi
  ansible-playbook "$here/images.yml" -i "$here/inventory"
}

plan() { ansible-playbook playbooks/preflight.yml -i "$here/inventory"; }

deploy() {
  ansible-playbook site.yml -i "$here/inventory"
  ansible-playbook site.yml -i "$here/inventory" | tee /tmp/second.log
  grep -q 'changed=0 ' /tmp/second.log
}

load() {
  local values
  values=$(python3 - "$report" <<'PYTHON'
import json, sys
plan = next(iter(json.load(open(sys.argv[1]))["hosts"].values()))
print(plan["limit_worker_concurrency"], plan["model"]["context_length"], plan["memory"]["needed_mib"])
PYTHON
  )
  read -r streams context needed <<<"$values"
  "$here/load.py" --url http://127.0.0.1:8000 --key "$(cat "$here/inventory/.secrets/fastchat_api_key")" \
    --streams "$streams" --context "$context" --planned-mib "$needed"
}

train() {
  local model=$GPU_TEST_MODELS/lmsys/vicuna-7b-train
  export PYTHONPATH=$PWD:$GPU_TEST_SITE
  [ -e "$model/config.json" ] || "$here/make_model.py" --shape vicuna-7b --out "$model"
  "$here/train.py" --model "$model" --work "$GPU_TEST_MODELS" --reference
}

identity() { PYTHONPATH=$GPU_TEST_SITE "$here/identity.py"; }

for stage in "${@:-prepare plan deploy load}"; do
  for step in $stage; do "$step"; done
done
