#!/bin/sh
# Makes what the other containers need before their first start, once: random
# passwords and the keys of pki.sh, each readable by the one user that needs it.
# Run again it leaves alone what is there, and renews certificates near their end.
set -eu
umask 077

secrets=${SECRETS:-/secrets}
hub=10001 mosquitto=1883 postgres=999 grafana=472 influxdb=1000

# own UID FILE…: root in the container may hand files over; elsewhere, as in a
# test, they stay with who made them.
own() {
	uid=$1
	shift
	if [ "$(id -u)" = 0 ] && [ -z "${KEEP_OWNER:-}" ]; then chown "$uid:$uid" "$@"; fi
}

# secret UID FILE
secret() {
	[ -s "$secrets/$2" ] || openssl rand -hex 24 >"$secrets/$2"
	own "$1" "$secrets/$2"
}

mkdir -p "$secrets"
chmod 755 "$secrets"
secret $postgres postgres-password
secret 0 minio-root
secret $hub s3-secret
secret $grafana grafana-password
secret $influxdb influxdb-password
secret $influxdb influxdb-token
secret 0 broker-group
# mosquitto grants any subscription and checks what it delivers: a device that
# knew the group of the hub's shared subscription could join it, and what it was
# not allowed to read would be lost. So the group is a secret.
sed "s/GROUP/$(cat "$secrets/broker-group")/" "${HUB_CONFIG:-/init/hub.yaml}" >"$secrets/hub.yaml"
own $hub "$secrets/hub.yaml"
printf 'postgres://swell:%s@postgres:5432/swell?sslmode=disable\n' "$(cat "$secrets/postgres-password")" >"$secrets/postgres-url"
cp "$secrets/influxdb-token" "$secrets/hub-influxdb-token"
cp "$secrets/influxdb-token" "$secrets/grafana-influxdb-token"
own $hub "$secrets/postgres-url" "$secrets/hub-influxdb-token"
own $grafana "$secrets/grafana-influxdb-token"

"$(dirname "$0")/pki.sh"
own $hub "${HUB:-/var/lib/swell-hub}" "${HUB:-/var/lib/swell-hub}/ca" "${HUB:-/var/lib/swell-hub}"/ca/* "${PKI:-/pki}"/hub.*
own $mosquitto "${PKI:-/pki}"/broker.*
