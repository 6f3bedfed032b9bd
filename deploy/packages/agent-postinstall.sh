#!/bin/sh
# After the first installation it says what to do; after an upgrade a running
# agent starts anew with the new program.
set -e
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl try-restart swell-agent
fi
# dpkg gives the old version when there was one, rpm how many there are now.
if [ -n "${2:-}" ] || [ "${1:-}" = 2 ]; then
  exit 0
fi
echo "swell-agent is installed. Edit /etc/swell/agent.yaml, put the hub's ca.pem and cosign.pub into"
echo "/etc/swell and the enrolment token into /etc/swell/enrol-token (mode 600), then:"
echo "systemctl enable --now swell-agent"
