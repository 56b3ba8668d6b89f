#!/bin/sh
# Prints the path of a Python with debugpy, and makes it first where it is not there.
set -eu

debugpy=1.8.22

cache=${XDG_CACHE_HOME:-$HOME/.cache}/mirrord
id=$(echo "$debugpy $(python3 -V)" | sha256sum | cut -c 1-12)
dir=$cache/debugpy-$id
mkdir -p "$cache"
exec 9>"$cache/debugpy.lock"
flock 9
if [ ! -f "$dir/ready" ]; then # a venv knows its own path: it cannot be renamed
	echo "installing debugpy $debugpy, once" >&2
	rm -rf "$dir"
	python3 -m venv "$dir" >&2
	"$dir/bin/pip" install -q --disable-pip-version-check "debugpy==$debugpy" >&2
	touch "$dir/ready"
fi
echo "$dir/bin/python"
