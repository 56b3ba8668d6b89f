package cluster

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// manyPods serves a namespace of so many pods, of which the last one is ready and
// deployment late's; the others are deployment early's. forget makes it answer
// that the place where a page begins is too old.
func manyPods(t *testing.T, count int, forget bool) *Cluster {
	pod := func(i int) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%04d", i), Labels: map[string]string{"app": "early"}}}
		p.Spec.Containers = []corev1.Container{{Name: "main"}}
		if i == count-1 {
			p.Labels["app"] = "late"
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		return p
	}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("GET /api/v1/namespaces/shop/pods", func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		if from > 0 && forget {
			answer(w, http.StatusGone, metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
				Status:   metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone,
			})
			return
		}
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
		for i := from; i < count; i++ {
			if limit > 0 && len(list.Items) == limit {
				list.Continue = strconv.Itoa(i)
				break
			}
			list.Items = append(list.Items, pod(i))
		}
		answer(w, http.StatusOK, list)
	})
	mux.HandleFunc("GET /apis/apps/v1/namespaces/shop/deployments", func(w http.ResponseWriter, _ *http.Request) {
		var items []any
		for _, name := range []string{"early", "late", "none"} {
			items = append(items, map[string]any{
				"metadata": map[string]any{"name": name},
				"spec":     map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": name}}},
			})
		}
		answer(w, http.StatusOK, map[string]any{"items": items})
	})
	server := httptest.NewServer(mux) // it has no other kinds
	t.Cleanup(server.Close)
	c, err := Open(t.Context(), slog.New(slog.DiscardHandler), Access{Kubeconfig: writeConfig(t, server.URL), Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// counting counts how often a selector is asked.
type counting struct {
	labels.Selector
	asked int
}

func (c *counting) Matches(l labels.Labels) bool {
	c.asked++
	return c.Selector.Matches(l)
}

// A workload looks at each pod once, however many pages they come in.
func TestOwnerLooksOnce(t *testing.T) {
	s := &counting{Selector: labels.SelectorFromSet(labels.Set{"app": "web"})}
	w := &owner{path: Path{Kind: "deployment", Name: "web"}, selector: s}
	var all []*corev1.Pod
	for range 10 {
		for _, app := range []string{"web", "other"} {
			all = append(all, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}}})
		}
		if l := w.list(all); l.Available || l.Reason == "it has no pods" {
			t.Errorf("of %d pods: %+v", len(all), l)
		}
	}
	if s.asked != len(all) || len(w.own) != len(all)/2 {
		t.Errorf("asked %d times, it has %d pods, of %d", s.asked, len(w.own), len(all))
	}
}

// Many pods come in parts: each target once, as soon as it is known.
func TestTargetsComeInParts(t *testing.T) {
	const count = 1200
	for _, forget := range []bool{false, true} {
		c := manyPods(t, count, forget)
		var parts [][]Listed
		all, _, err := c.Targets(t.Context(), "", func(part []Listed) { parts = append(parts, part) })
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, l := range all {
			paths = append(paths, l.Path.String())
		}
		if len(all) != count+3 || !slices.Equal(paths[:4], []string{"deployment/early", "deployment/late", "deployment/none", "pod/p0000"}) {
			t.Errorf("forget %v: %d targets, first %q", forget, len(all), paths[:4])
		}
		told := map[Path]int{}
		for i, part := range parts {
			for _, l := range part {
				if _, twice := told[l.Path]; twice {
					t.Errorf("forget %v: %v is told twice", forget, l.Path)
				}
				told[l.Path] = i
				if want := all[slices.Index(paths, l.Path.String())]; !cmp.Equal(l, want) {
					t.Errorf("forget %v: %v is told as %+v, and is %+v", forget, l.Path, l, want)
				}
			}
			if i == 0 && len(part) > pageSize+3 {
				t.Errorf("forget %v: the first part has %d targets", forget, len(part))
			}
		}
		if len(told) != len(all) {
			t.Errorf("forget %v: %d of %d targets were told", forget, len(told), len(all))
		}
		early, late := told[Path{Kind: "deployment", Name: "early"}], told[Path{Kind: "deployment", Name: "late"}]
		if last := told[Path{Kind: "pod", Name: fmt.Sprintf("p%04d", count-1)}]; early >= last || late < last {
			t.Errorf("forget %v: early comes with part %d, late with part %d, the last pod with part %d", forget, early, late, last)
		}
	}
}
