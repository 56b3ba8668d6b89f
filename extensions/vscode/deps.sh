#!/bin/sh
# Installs what the package-lock.json of a directory names:
#
#	deps.sh DIRECTORY
#
# What npm has installed is kept by the lock's hash, for other checkouts: to copy
# it takes a second, where npm unpacks and checks for twenty.
set -eu
cd "$1"
if [ node_modules/.package-lock.json -nt package-lock.json ]; then
	exit
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord
id=$({ cat package-lock.json; node -v; npm -v; uname -m; } | sha256sum | cut -c 1-12)
kept=$cache/node_modules-$id
if [ -d "$kept" ]; then
	rm -rf node_modules
	cp -a "$kept" node_modules
	touch node_modules/.package-lock.json # newer than this checkout's lock
	exit
fi
npm ci --no-audit --no-fund --no-update-notifier --loglevel=error
mkdir -p "$cache"
new=$(mktemp -d "$cache/.node_modules-XXXXXX")
trap 'rm -rf "$new"' EXIT
cp -a node_modules "$new/copy"
mv -T "$new/copy" "$kept" 2>/dev/null || [ -d "$kept" ] # another checkout was first
