package launch

import (
	"maps"
	"slices"
	"strings"

	"mirrord/layer"
)

// merge is env, as the target changes it.
func merge(env []string, set map[string]string, unset []string) []string {
	list := slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		_, ok := set[name]
		return ok || slices.Contains(unset, name)
	})
	for _, name := range slices.Sorted(maps.Keys(set)) {
		list = append(list, name+"="+set[name])
	}
	return list
}

// nodeOptions has Node.js load what VS Code's debugger puts into the debuggee,
// which layer.EditorsNode then tells where the debugger is.
const nodeOptions = "NODE_OPTIONS"

// inspected is what the target sets, but that a debugger of Node.js that env asks
// for stays: the target's options come after it.
func inspected(env []string, set map[string]string) map[string]string {
	targets, own := set[nodeOptions], lookup(env, nodeOptions)
	if targets == "" || own == "" || !layer.ByEditor(env) {
		return set
	}
	set = maps.Clone(set)
	set[nodeOptions] = own + " " + targets
	return set
}
