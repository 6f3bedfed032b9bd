#!/bin/sh
# Makes the bucket and the user that the hub uses. Safe to run again.
set -eu
mc alias set local http://minio:9000 root "$(cat /secrets/minio-root)"
mc mb --ignore-existing local/swell
mc admin user add local swell "$(cat /secrets/s3-secret)"
# The policy may be attached already, which mc calls an error.
mc admin policy attach local readwrite --user swell || mc admin policy entities local --user swell | grep -q readwrite
