#!/bin/sh
# Prints the directory of the workbench that the tests run in, and makes it
# first where it is not there: node, and VS Code as a server (code-server).
# Needs npm, a C++ compiler, python3, pkg-config and libkrb5-dev, once.
set -eu

node=24.21.0 # code-server 4.139 runs on node 24 only
server=4.139.1
npm=11.21.2 # builds native modules by node's headers, whatever npm is here

case $(uname -m) in
x86_64) arch=x64 ;;
aarch64) arch=arm64 ;;
*) echo "install.sh: no workbench for $(uname -m): there are x86_64 and aarch64" >&2; exit 1 ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord
id=$(echo "$node $server $npm $arch" | sha256sum | cut -c 1-12)
dir=$cache/workbench-$id
if [ -d "$dir" ]; then
	echo "$dir"
	exit
fi

for tool in npm make c++ python3 pkg-config; do
	command -v $tool >/dev/null || { echo "install.sh: $tool is not there, and needed once to build the workbench" >&2; exit 1; }
done
pkg-config --exists krb5-gssapi || { echo "install.sh: libkrb5-dev is not there, and needed once to build the workbench" >&2; exit 1; }

mkdir -p "$cache"
exec 9>"$cache/workbench.lock"
flock 9 # another checkout may be at it
if [ ! -d "$dir" ]; then
	echo "installing code-server $server and node $node, once" >&2
	rm -rf "$cache"/.workbench-* # what a killed install left
	new=$(mktemp -d "$cache/.workbench-XXXXXX")
	trap 'rm -rf "$new"' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	# Each in a tree of its own: npm moves what is in a tree aside while it
	# installs, and node with its headers is in use by then.
	add() { # TREE PACKAGE
		mkdir "$new/$1"
		echo '{"private": true}' >"$new/$1/package.json"
		(cd "$new/$1" && npm install --no-audit --no-fund --no-update-notifier "$2") >"$new/log" 2>&1 || {
			cat "$new/log" >&2
			echo "install.sh: $2 could not be installed" >&2
			exit 1
		}
	}
	add node "node-linux-$arch@$node"
	add npm "npm@$npm"
	home=$new/node/node_modules/node-linux-$arch
	mkdir "$new/bin"
	printf '#!/bin/sh\nexec "%s/bin/node" "%s/npm/node_modules/npm/bin/npm-cli.js" "$@"\n' "$home" "$new" >"$new/bin/npm"
	chmod +x "$new/bin/npm"
	PATH=$new/bin:$home/bin:$PATH
	export npm_config_nodedir="$home" # the headers are in the package
	add code-server "code-server@$server"
	rm -rf "$new/npm" "$new/bin" "$new/log"
	ln -s "node/node_modules/node-linux-$arch/bin/node" "$new/run-node"
	ln -s code-server/node_modules/code-server/out/node/entry.js "$new/run-server"
	said=$(unset XDG_CONFIG_HOME XDG_DATA_HOME && HOME=$new/home "$new/run-node" "$new/run-server" --version 2>&1) ||
		said="$said, exit code $?"
	rm -rf "$new/home"
	case $said in
	*"$server "*) ;;
	*) echo "install.sh: code-server $server says this of its version: $said" >&2; exit 1 ;;
	esac
	mv -T "$new" "$dir"
fi
echo "$dir"
