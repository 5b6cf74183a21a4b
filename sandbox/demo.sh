#!/usr/bin/env bash
# The demo: two hosts without a GPU, taken to a verified chat completion by the same command that you would type.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
printf '\nStarting the hub and two hosts\n'
ANSIBLE_DISPLAY_SKIPPED_HOSTS=false ansible-playbook -i inventories/sandbox sandbox/up.yml
printf '\n$ ansible-playbook site.yml -i inventories/sandbox\n'
ansible-playbook site.yml -i inventories/sandbox
cat <<EOF

Done in $((SECONDS - started)) s.
  chat:    make chat
  ask:     curl http://127.0.0.1:18001/v1/chat/completions -H "Authorization: Bearer \$(cat inventories/sandbox/.secrets/fastchat_api_key)" \\
             -H 'Content-Type: application/json' -d '{"model": "vicuna", "max_tokens": 40, "messages": [{"role": "user", "content": "Hello!"}]}'
  remove:  make clean
EOF
