package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// The first start may cost at most 500 ms more than a bare pod of the same
// image takes to listen, the second must be far below the 300 ms that a whole
// second exec has.
func TestStartSpeed(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	c, spec := openShop(t), echoSpec(t)
	target := web(t, c)
	var bare, first, second, dials []time.Duration
	for i := range 5 {
		bare = append(bare, barePod(t, c, target, i))
		spec.Build = fmt.Sprintf("%s-%d", t.Name(), i)
		began := time.Now()
		a, err := c.StartAgent(t.Context(), target, spec, nil, closing(hello))
		if err != nil {
			t.Fatal(err)
		}
		first = append(first, time.Since(began))
		began = time.Now()
		if _, err := c.StartAgent(t.Context(), target, spec, nil, closing(hello)); err != nil {
			t.Fatal(err)
		}
		second = append(second, time.Since(began))
		began = time.Now()
		if err := hello(t.Context(), dial(t, a)); err != nil {
			t.Fatal(err)
		}
		dials = append(dials, time.Since(began))
		kubectl(t, "", "delete", "job", "-n", a.Namespace, a.Job)
	}
	t.Logf("medians: bare pod %v, first start %v, second %v, dial and answer %v", median(bare), median(first), median(second), median(dials))
	if d := median(first) - median(bare); d > 500*time.Millisecond {
		t.Errorf("the first start costs %v more than a bare pod", d)
	}
}

// barePod is the time from creating a pod to an answer, tried without pause.
func barePod(t *testing.T, c *Cluster, target *Target, i int) time.Duration {
	name := fmt.Sprintf("bare-%d", i)
	manifest := must(job(target, echoSpec(t)))
	pod := &manifest.Spec.Template
	began := time.Now()
	created := podFrom(name, target.Namespace, pod)
	if err := c.create(t.Context(), pods, target.Namespace, created, new(corev1.Pod)); err != nil {
		t.Fatal(err)
	}
	defer kubectl(t, "", "delete", "pod", name, "-n", target.Namespace, "--wait=false")
	a := &Agent{c: c, Namespace: target.Namespace, Pod: name, port: echoPort}
	for {
		conn, err := a.Dial(t.Context())
		if err == nil {
			err = hello(t.Context(), conn)
			conn.Close()
		}
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > 20*time.Second || strings.Contains(err.Error(), "forbidden") {
			t.Fatal(err)
		}
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(time.Millisecond)
}
