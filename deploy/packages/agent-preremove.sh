#!/bin/sh
# An upgrade is no removal: the unit stays enabled and runs until it is replaced.
set -e
case "${1:-}" in
  upgrade | 1) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
  systemctl disable --now swell-agent || true
fi
