#!/bin/sh
# After the first installation it says what to do; after an upgrade a running
# hub starts anew with the new program.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart swell-hub
fi
# dpkg gives the old version when there was one, rpm how many there are now.
if [ -n "${2:-}" ] || [ "${1:-}" = 2 ]; then
  exit 0
fi
echo "swell-hub is installed. It listens on this machine only until /etc/swell/hub.yaml says more."
echo "Start it: systemctl enable --now swell-hub; the first password: journalctl -u swell-hub"
