package launch

import (
	"slices"
	"testing"
)

// The target's NODE_OPTIONS take the place of one's own, but not of a debugger's.
func TestNodeOptions(t *testing.T) {
	const own, inspector = "NODE_OPTIONS=--require /ext/boot.js", `VSCODE_INSPECTOR_OPTIONS={"inspectorIpc":"/tmp/s"}`
	for _, tt := range []struct {
		env   []string
		set   string
		unset []string
		want  []string
	}{
		{[]string{own, inspector}, "--no-warnings", nil, []string{inspector, own + " --no-warnings"}},
		{[]string{own}, "--no-warnings", nil, []string{"NODE_OPTIONS=--no-warnings"}},
		{[]string{own, "VSCODE_INSPECTOR_OPTIONS="}, "--no-warnings", nil, []string{"VSCODE_INSPECTOR_OPTIONS=", "NODE_OPTIONS=--no-warnings"}},
		{[]string{inspector}, "--no-warnings", nil, []string{inspector, "NODE_OPTIONS=--no-warnings"}},
		{[]string{own, inspector}, "", nil, []string{own, inspector}},
		{[]string{own, inspector}, "", []string{nodeOptions}, []string{inspector}},
	} {
		set := map[string]string{}
		if tt.set != "" {
			set[nodeOptions] = tt.set
		}
		if got := merge(tt.env, inspected(tt.env, set), tt.unset); !slices.Equal(got, tt.want) {
			t.Errorf("%q, with the target's %q and without %q: %q, want %q", tt.env, tt.set, tt.unset, got, tt.want)
		}
		if set[nodeOptions] != tt.set {
			t.Error("what the daemon answered was changed")
		}
	}
}
