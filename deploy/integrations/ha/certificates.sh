#!/bin/sh
# Creates, in the current directory, the certificates of etcd's members and of the gateways: a CA (ca.crt, ca.key),
# and for each NAME=ADDRESS a certificate with its key. The user "root" may change rights in etcd.
#
#   sh certificates.sh root gw-a=10.77.0.2 gw-b=10.77.0.3 witness=10.77.0.250
#
# Each machine gets ca.crt and its own two files. Keep ca.key, root.key and root.crt elsewhere.
set -eu
umask 077
key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
[ -e ca.key ] || openssl req -x509 $key -days 3650 -subj '/CN=authority of pptpalg' -keyout ca.key -out ca.crt
for end in "$@"; do
	name=${end%%=*}
	{
		echo basicConstraints=critical,CA:FALSE
		case $end in *=*) echo "subjectAltName=IP:${end#*=}" ;; esac
	} >"$name.ext"
	openssl req -new $key -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
	openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 1825 -extfile "$name.ext" -out "$name.crt"
	rm "$name.ext" "$name.csr"
done
