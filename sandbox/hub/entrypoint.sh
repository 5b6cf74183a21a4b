#!/bin/bash
# Starts the hub's servers; the container ends when one of them does, so that its restart policy mends it.
set -euo pipefail

if [ ! -e /srv/www/_revisions.json ]; then
  rm -rf /srv/git/* /srv/lfs/* # what a start that was cut off left
  python3 /opt/hub/publish.py
fi
chown -R www-data:www-data /srv/git /srv/lfs
install -d -o www-data -g www-data /run/hub
rm -f /run/hub/fcgiwrap.sock /run/nginx.pid

as_www_data() {
  exec setpriv --reuid=www-data --regid=www-data --clear-groups --no-new-privs env HOME=/nonexistent "$@"
}

trap 'kill $(jobs -p) 2>/dev/null; exit 0' TERM INT
as_www_data PYTHONPATH=/opt/hub PYTHONWARNINGS=ignore PYTHONDONTWRITEBYTECODE=1 \
  waitress-serve --listen=127.0.0.1:8001 --threads=16 --channel-request-lookahead=1 --call lfs_server:create_app &
as_www_data fcgiwrap -f -c 4 -s unix:/run/hub/fcgiwrap.sock &
docker-registry serve /opt/hub/registry.yml &
until (: < /dev/tcp/127.0.0.1/8001) 2> /dev/null; do sleep 0.1; done
nginx -g 'daemon off;' &
wait -n
echo 'hub: one of the servers has ended' >&2
exit 1
