#!/bin/bash
# What main.go says, in bash and its programs, but for the listener, which it has not.
set -e
echo "env $SHOP_GREETING"
read -r line </etc/shop/config.yaml
echo "file $line"
getent ahostsv4 "$2" | { read -r address _; echo "name $address"; }
exec 3<>"/dev/tcp/$2/80"
printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" >&3
read -r _ status _ <&3
echo "http $status $(curl -s -o /dev/null -w '%{remote_ip}:%{remote_port}' "http://$2/")"
