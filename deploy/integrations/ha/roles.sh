#!/bin/sh
# Lets gateways write below pptpalg's prefix in etcd, and nobody else. Run it once, where root's certificate is:
#
#   sh roles.sh 10.77.0.2:2379 gw-a gw-b
#
# etcd uses the name in a certificate as the user. To add a gateway later, run the two lines of the loop for it.
set -eu
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS="$1" ETCDCTL_CACERT=ca.crt ETCDCTL_CERT=root.crt ETCDCTL_KEY=root.key
shift
etcdctl role add pptpalg
etcdctl role grant-permission pptpalg readwrite --prefix /pptpalg/1/
for gateway in "$@"; do
	etcdctl user add "$gateway" --no-password
	etcdctl user grant-role "$gateway" pptpalg
done
etcdctl user add root --no-password
etcdctl user grant-role root root
etcdctl auth enable
