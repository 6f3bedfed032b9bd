#!/bin/sh
# Makes the devices' CA in the form in which the hub opens it, and signs with it
# a certificate for the broker, since devices trust that CA alone, and one by
# which the hub shows the broker who it is. Needs openssl.
#
#   HUB  the hub's data folder; default /var/lib/swell-hub; a CA in it is kept
#   PKI  where ca.pem, broker.pem, broker.key, hub.pem and hub.key go; default /pki
#   BROKER_NAMES  by which devices and the hub reach the broker
#
# Run at each start, it renews what ends within 30 days.
set -eu
umask 077

hub=${HUB:-/var/lib/swell-hub}
pki=${PKI:-/pki}
names=${BROKER_NAMES:-DNS:mosquitto,DNS:localhost,IP:127.0.0.1}
days=397

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

mkdir -p "$hub/ca" "$pki"
chmod 755 "$pki"
if [ ! -e "$hub/ca/ca.key" ]; then
	key "$hub/ca/ca.key"
	openssl req -x509 -new -key "$hub/ca/ca.key" -sha256 -days 3650 -subj "/CN=Swell device CA" \
		-addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
		-out "$hub/ca/ca.pem"
	chmod 644 "$hub/ca/ca.pem"
fi
cp "$hub/ca/ca.pem" "$pki/ca.pem"
chmod 644 "$pki/ca.pem"

# leaf NAME COMMON-NAME USAGE [SUBJECT-ALTERNATIVE-NAMES]
leaf() {
	if [ -s "$pki/$1.pem" ] && openssl x509 -in "$pki/$1.pem" -noout -checkend 2592000 >/dev/null &&
		openssl verify -CAfile "$pki/ca.pem" "$pki/$1.pem" >/dev/null 2>&1; then
		return 0
	fi
	[ -s "$pki/$1.key" ] || key "$pki/$1.key"
	{
		echo "basicConstraints=critical,CA:FALSE"
		echo "keyUsage=critical,digitalSignature"
		echo "extendedKeyUsage=$3"
		[ -z "${4:-}" ] || echo "subjectAltName=$4"
	} >"$pki/$1.ext"
	openssl req -new -key "$pki/$1.key" -subj "/CN=$2" -out "$pki/$1.csr"
	openssl x509 -req -in "$pki/$1.csr" -CA "$hub/ca/ca.pem" -CAkey "$hub/ca/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
		-sha256 -days $days -extfile "$pki/$1.ext" -out "$pki/$1.pem.new" 2>/dev/null
	mv "$pki/$1.pem.new" "$pki/$1.pem"
	rm -f "$pki/$1.csr" "$pki/$1.ext"
}

leaf broker mosquitto serverAuth "$names"
# The broker knows the hub by this name: it is in the access rules.
leaf hub swell-hub-hub clientAuth
