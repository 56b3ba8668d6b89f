package launch

import (
	"maps"
	"slices"
	"strings"
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

// VS Code's debugger of Node.js comes into the debuggee by these variables: the
// first has it load what the second tells where the debugger is.
const (
	nodeOptions  = "NODE_OPTIONS"
	inspectorVar = "VSCODE_INSPECTOR_OPTIONS"
)

// inspected is what the target sets, but that a debugger of Node.js that env asks
// for stays: the target's options come after it.
func inspected(env []string, set map[string]string) map[string]string {
	targets, own := set[nodeOptions], lookup(env, nodeOptions)
	if targets == "" || own == "" || lookup(env, inspectorVar) == "" {
		return set
	}
	set = maps.Clone(set)
	set[nodeOptions] = own + " " + targets
	return set
}
