package cli

import (
	"bytes"
	"testing"

	"mirrord/protocol/ide"
)

func TestPrintTargets(t *testing.T) {
	targets := []ide.Target{
		{Path: "deployment/web", Containers: []string{"web", "proxy"}, Available: true},
		{Path: "pod/gone", Containers: []string{"web"}, Reason: "it is not running: CrashLoopBackOff"},
		{Path: "pod/odd"},
	}
	var out bytes.Buffer
	if err := printTargets(&out, ofTypes(targets, []string{"pod", "deployment"})); err != nil {
		t.Fatal(err)
	}
	want := "TARGET           CONTAINERS   STATUS\n" +
		"deployment/web   web,proxy    available\n" +
		"pod/gone         web          it is not running: CrashLoopBackOff\n" +
		"pod/odd                       not available\n"
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", &out, want)
	}
	if left := ofTypes(targets, []string{"deployment"}); len(left) != 1 {
		t.Errorf("deployments: %v", left)
	}
	hidden := func() []string { return []string{"deployments", "statefulsets"} }
	if all, some := ofKinds(hidden(), nil), ofKinds(hidden(), []string{"pod", "statefulset"}); len(all) != 2 || len(some) != 1 || some[0] != "statefulsets" {
		t.Errorf("not shown: of all %v, of stateful sets %v", all, some)
	}
}
