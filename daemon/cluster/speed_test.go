package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// BenchmarkStart compares an agent's first and second start with a bare pod of
// the same image. The aim: the first costs at most 500 ms more than the pod,
// the second is far below the 300 ms that a whole second exec has.
func BenchmarkStart(b *testing.B) {
	c, spec := openShop(b), echoSpec(b)
	target := web(b, c)
	var bare, first, second []time.Duration
	for i := 0; b.Loop(); i++ {
		bare = append(bare, barePod(b, c, target, i))
		spec.Build = fmt.Sprintf("%s-%d", b.Name(), i)
		began := time.Now()
		a, err := c.StartAgent(b.Context(), target, spec, nil, closing(hello))
		if err != nil {
			b.Fatal(err)
		}
		first = append(first, time.Since(began))
		began = time.Now()
		if _, err := c.StartAgent(b.Context(), target, spec, nil, closing(hello)); err != nil {
			b.Fatal(err)
		}
		second = append(second, time.Since(began))
		kubectl(b, "", "delete", "job", "-n", a.Namespace, a.Job)
	}
	b.ReportMetric(median(bare), "ms/pod")
	b.ReportMetric(median(first), "ms/first")
	b.ReportMetric(median(second), "ms/second")
}

// barePod is the time from creating a pod to an answer, tried without pause.
func barePod(t testing.TB, c *Cluster, target *Target, i int) time.Duration {
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

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2]) / float64(time.Millisecond)
}
