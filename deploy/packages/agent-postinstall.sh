#!/bin/sh
# The unit loads the token as a credential, so the file has to exist.
set -e
[ -e /etc/swell/enrol-token ] || (umask 077 && : > /etc/swell/enrol-token)
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
echo "swell-agent is installed. Edit /etc/swell/agent.yaml, put the enrolment token into"
echo "/etc/swell/enrol-token, then: systemctl enable --now swell-agent"
