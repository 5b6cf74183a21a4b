#!/usr/bin/env bash
# Fine-tuning in the sandbox: the demo's model, whose answers mean nothing, learns on one host who it is, and is rolled out to both.
set -euo pipefail
cd "$(dirname "$0")/.."
question='Who are you?'
expected=$(jq --raw-output --arg question "$question" '.[] | select(.prompt == $question).expected' sandbox/finetune/prompts.json)
ask() { docker exec "vicuna-sandbox-$1" vicuna-call --text --temperature 0 --max-tokens 64 "$question"; }

for host in gpuless-a gpuless-b; do
  if ! ask "$host" >/dev/null 2>&1; then
    printf '\n%s serves no model yet: first the demo\n' "$host"
    sandbox/demo.sh
    break
  fi
done
started=$SECONDS
printf '\n%s\n  before: %s\n' "$question" "$(ask gpuless-a)"
printf '\n$ ansible-playbook playbooks/finetune.yml -i inventories/sandbox -e @sandbox/finetune/settings.yml\n'
ansible-playbook playbooks/finetune.yml -i inventories/sandbox -e @sandbox/finetune/settings.yml
printf '\n%s\n' "$question"
for host in gpuless-a gpuless-b; do
  answer=$(ask "$host")
  printf '  %s: %s\n' "$host" "$answer"
  if [ "$answer" != "$expected" ]; then
    printf 'Expected: %s\n' "$expected" >&2
    exit 1
  fi
done
cat <<EOF

Done in $((SECONDS - started)) s.
  curve:    reports/finetune/
  chat:     make chat
  go back:  make demo
  remove:   make clean
EOF
