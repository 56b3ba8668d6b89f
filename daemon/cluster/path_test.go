package cluster

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]Path{
		"targetless":                   {Kind: "targetless"},
		"pod/web-1":                    {Kind: "pod", Name: "web-1"},
		"po/web-1":                     {Kind: "pod", Name: "web-1"},
		"deploy/web":                   {Kind: "deployment", Name: "web"},
		"deployment/web/container/app": {Kind: "deployment", Name: "web", Container: "app"},
		"sts/db":                       {Kind: "statefulset", Name: "db"},
		"rollout/web":                  {Kind: "rollout", Name: "web"},
		"cronjob/nightly":              {Kind: "cronjob", Name: "nightly"},
		"svc/web":                      {Kind: "service", Name: "web"},
		"label/app=web,tier!=db":       {Kind: "label", Name: "app=web,tier!=db"},
		"label/example.test/app=web/container/app": {Kind: "label", Name: "example.test/app=web", Container: "app"},
	} {
		p, err := ParseTarget(in)
		if err != nil || p != want {
			t.Errorf("%s: %+v, %v; want %+v", in, p, err, want)
		}
		if again, err := ParseTarget(p.String()); err != nil || again != p {
			t.Errorf("%s: its own spelling %q is %+v, %v", in, p, again, err)
		}
	}
	for in, want := range map[string]string{
		"":                        "not KIND/NAME",
		"web":                     "not KIND/NAME",
		"pod/":                    "not KIND/NAME",
		"deploymnet/web":          "did you mean deployment?",
		"configmap/web":           "the kinds are deployment",
		"pod/a/b":                 "only /container/CONTAINER",
		"pod/a/container/":        "only /container/CONTAINER",
		"pod/a/container/b/c":     "only /container/CONTAINER",
		"pod//container/b":        "is no name",
		"pod/..?x":                "is no name",
		"label/a b":               "label",
		"label/a=b/container/":    "is no container's name",
		"label/a=b/container/c/d": "is no container's name",
	} {
		if p, err := ParseTarget(in); !IsKind(err, BadTarget) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", in, p, err, want)
		}
	}
}

// What parses is spelled in one way, and nothing in it leaves its place in a
// request's path.
func FuzzParseTarget(f *testing.F) {
	f.Add("deployment/web/container/app")
	f.Add("label/app in (a,b)/container/c")
	f.Fuzz(func(t *testing.T, in string) {
		p, err := ParseTarget(in)
		if err != nil {
			return
		}
		if again, err := ParseTarget(p.String()); err != nil || again != p {
			t.Errorf("%q: %+v is spelled %q, which is %+v, %v", in, p, p, again, err)
		}
		if p.Kind != "label" && strings.ContainsAny(p.Name+p.Container, "/?#%") {
			t.Errorf("%q: %+v", in, p)
		}
	})
}

func TestSuggest(t *testing.T) {
	names := []string{"checkout", "inventory", "web", "web-canary"}
	for in, want := range map[string]string{
		"wbe":        "did you mean web?",
		"we":         "did you mean web or web-canary?",
		"inventry":   "did you mean inventory?",
		"checkuot":   "did you mean checkout?",
		"production": "it has checkout, inventory, web, web-canary",
	} {
		if got := suggest(in, names, "it has"); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	for hint, all := range map[string][]string{
		"did you mean shop? choose it with -n":            {"default", "shop"},
		"it has default, kube-system; choose one with -n": {"default", "kube-system"},
		"choose another with -n":                          nil,
	} {
		if got := namespaceHint("shpo", all); got != hint {
			t.Errorf("of %q: %q, want %q", all, got, hint)
		}
	}
	if got := suggest("x", nil, "it has"); got != "" {
		t.Errorf("no names: %q", got)
	}
}
