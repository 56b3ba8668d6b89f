package policy

import (
	"fmt"
	"path"
	"strings"
)

// Verdicts are made once: a decision allocates nothing.
var (
	kernelFiles   = Verdict{Kind: Local, Rule: "the machine's own /proc, /sys and /dev"}
	modeLocal     = Verdict{Kind: Local, Rule: "fs mode local"}
	modeOverrides = Verdict{Kind: Local, Rule: "fs mode localwithoverrides"}
	modeRead      = Verdict{Kind: Remote, Rule: "fs mode read"}
	modeWrite     = Verdict{Kind: Remote, Rule: "fs mode write", Writable: true}
	resolver      = Verdict{Kind: Remote, Rule: "dns: the resolver's files"}
	resolverOff   = Verdict{Kind: Local, Rule: "dns is off"}
	notFound      = Verdict{Kind: NotFound, Rule: "default not_found set"}
	readOnly      = Verdict{Kind: Remote, Rule: "default read_only set"}
	mounted       = Verdict{Kind: Remote, Rule: "volume mount of the target"}
	mountWritable = Verdict{Kind: Remote, Rule: "volume mount of the target, fs mode write", Writable: true}
	defaultLocal  = Verdict{Kind: Local, Rule: "default local set"}
	ownPlace      = Verdict{Kind: Local, Rule: "the debuggee's own directory, program, home or temporary files"}
	leading       = Verdict{Kind: Local, Rule: "leads to the debuggee's own directory or program"}
	through       = Verdict{Kind: Remote, Rule: "leads through a directory of the target"}
	relative      = Verdict{Kind: Local, Rule: "not an absolute path"}
)

// localRoots are first names of the default local set.
var localRoots = map[string]bool{
	"lib": true, "lib32": true, "lib64": true, "libx32": true, "etc": true, "usr": true, "home": true,
	"bin": true, "sbin": true, "opt": true, "tmp": true, "snap": true, "run": true, "selinux": true, "nix": true,
}

// localSuffixes are file name endings of the default local set.
var localSuffixes = map[string]bool{
	"so": true, "sh": true, "rb": true, "d": true, "pyc": true, "py": true, "jar": true, "class": true,
	"js": true, "pth": true, "plist": true, "pdb": true, "dll": true,
}

// localNames are file names of the default local set.
var localNames = map[string]bool{
	"pyvenv.cfg": true, "venv.cfg": true, "jvm.cfg": true, "package.json": true, ".tool-versions": true,
	"node_modules": true,
}

// Path decides about an absolute path. Its spelling does not matter: "..",
// "." and doubled slashes are taken away as in a tree without links. Only a
// ".." that leaves a Remote directory makes the whole Remote: that directory
// may not exist here, and its parent is the target's.
func (p *Policy) Path(name string) Verdict {
	v := p.clean(path.Clean(name))
	if v.Kind == Local && v != kernelFiles && p.throughRemote(name) {
		return through
	}
	return v
}

func (p *Policy) throughRemote(name string) bool {
	for at := 0; ; {
		i := strings.Index(name[at:], "/..")
		if i < 0 {
			return false
		}
		i += at
		at = i + len("/..")
		if (at == len(name) || name[at] == '/') && p.clean(path.Clean(name[:i])).Kind == Remote {
			return true
		}
	}
}

// clean decides about a path as path.Clean spells it.
func (p *Policy) clean(name string) Verdict {
	if name == "" || name[0] != '/' {
		return relative
	}
	if Kernels(name) {
		return kernelFiles
	}
	root, _, _ := strings.Cut(name[1:], "/")
	if p.set.FSMode == "local" {
		switch {
		case p.set.DNS && resolverFile(name):
			return resolver
		case root == "sys" || root == "dev":
			return kernelFiles
		}
		return modeLocal
	}
	if len(p.rules) == 0 && len(p.mapping) == 0 {
		return p.defaults(name, root)
	}
	if v, ok := p.cache.get(name); ok {
		return v
	}
	v := p.user(name)
	p.cache.put(name, v)
	return v
}

// user applies the user's mapping and rules, then the defaults.
func (p *Policy) user(name string) Verdict {
	mapped, pattern, err := p.mapped(name)
	if err != nil {
		return Verdict{Kind: Refused, Rule: fmt.Sprintf("fs.mapping %q took too long", pattern)}
	}
	v, ok := kernelFiles, Kernels(mapped)
	if !ok {
		v, ok = p.matchRules(mapped)
	}
	if !ok {
		root, _, _ := strings.Cut(mapped[1:], "/")
		v = p.defaults(mapped, root)
	}
	if mapped != name {
		v.Path = mapped
	}
	return v
}

// defaults decides about a clean path without the user's rules; root is its first name.
func (p *Policy) defaults(name, root string) Verdict {
	if root == "sys" || root == "dev" {
		return kernelFiles
	}
	for _, dir := range p.notFound {
		if below(name, dir) {
			return notFound
		}
	}
	if root == "etc" {
		switch {
		case resolverFile(name):
			if p.set.DNS {
				return resolver
			}
			return resolverOff
		case name == "/etc/hostname", below(name, "/etc/ssl/certs"):
			return readOnly
		}
	}
	for _, dir := range p.local {
		if below(name, dir) {
			return ownPlace
		}
	}
	if p.leading[name] {
		return leading
	}
	for _, dir := range p.mounts {
		switch {
		case !below(name, dir):
		case p.set.FSMode == "write":
			return mountWritable
		default:
			return mounted
		}
	}
	if name == "/" || localRoots[root] || root == "var" && (below(name, "/var/tmp") || below(name, "/var/db/timezone/zoneinfo")) {
		return defaultLocal
	}
	if localName(name) {
		return defaultLocal
	}
	switch p.set.FSMode {
	case "read":
		return modeRead
	case "write":
		return modeWrite
	}
	return modeOverrides
}

// ownDevices are what of /dev is about the process that looks, its terminals and
// its memory: the target has nothing in their place.
var ownDevices = map[string]bool{
	"fd": true, "stdin": true, "stdout": true, "stderr": true, "null": true, "zero": true, "full": true, "random": true, "urandom": true,
	"tty": true, "pts": true, "ptmx": true, "console": true, "shm": true, "mqueue": true,
}

// Kernels tells whether no rule has a say about a clean path: /proc is about this
// machine's processes, and some of /dev about the one that looks.
func Kernels(name string) bool {
	if below(name, "/proc") {
		return true
	}
	rest, ok := strings.CutPrefix(name, "/dev/")
	device, _, _ := strings.Cut(rest, "/")
	return ok && ownDevices[device]
}

// resolverFile: what the C library's and Go's resolvers read before they ask.
func resolverFile(name string) bool {
	return name == "/etc/resolv.conf" || name == "/etc/hosts" || name == "/etc/nsswitch.conf"
}

// localName tells whether the names of a path are of the default local set.
func localName(name string) bool {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if localNames[base] || strings.HasPrefix(base, ".yarnrc") {
		return true
	}
	if strings.HasPrefix(base, "clr-") && strings.Contains(base[len("clr-"):], "-pipe-") {
		return true
	}
	if i := strings.LastIndexByte(base, '.'); i > 0 {
		if localSuffixes[base[i+1:]] {
			return true
		}
		if j := strings.Index(base, ".so."); j > 0 && digits(base[j+len(".so."):]) {
			return true
		}
	}
	return strings.Contains(name, "/node_modules/") || strings.Contains(name, "/.asdf/")
}

// digits: a library's version, as in libz.so.1.2.13.
func digits(s string) bool {
	for _, c := range []byte(s) {
		if c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// below tells whether name is dir or in it.
func below(name, dir string) bool {
	return strings.HasPrefix(name, dir) && (len(name) == len(dir) || name[len(dir)] == '/')
}
