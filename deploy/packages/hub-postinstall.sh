#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
echo "swell-hub is installed. It listens on this machine only until /etc/swell/hub.yaml says more."
echo "Start it: systemctl enable --now swell-hub; the first password: journalctl -u swell-hub"
