package cluster

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

func TestStartAgent(t *testing.T) {
	c := openShop(t)
	spec := echoSpec(t)
	began := time.Now()
	a := startEcho(t, c, spec)
	t.Logf("first start: %v", time.Since(began))
	if !a.Created {
		t.Error("the first start did not create the agent")
	}
	began = time.Now()
	b := startEcho(t, c, spec)
	t.Logf("second start: %v", time.Since(began))
	if b.Created || b.Pod != a.Pod {
		t.Errorf("the second start made its own agent: %+v", b)
	}
	if err := a.Gone(t.Context()); err != nil {
		t.Errorf("a running agent is gone: %v", err)
	}
}

// Two that start at once use one agent.
func TestStartTogether(t *testing.T) {
	c, spec := openShop(t), echoSpec(t)
	target := web(t, c)
	type result struct {
		a   *Agent
		err error
	}
	results := make(chan result, 2)
	for range 2 {
		go func() {
			a, err := c.StartAgent(t.Context(), target, spec, nil, closing(hello))
			results <- result{a, err}
		}()
	}
	one, other := <-results, <-results
	if one.err != nil || other.err != nil {
		t.Fatal(one.err, other.err)
	}
	t.Cleanup(func() { kubectl(t, "", "delete", "job", "-n", one.a.Namespace, one.a.Job, "--wait=false") })
	if one.a.Pod != other.a.Pod || one.a.Created == other.a.Created {
		t.Errorf("two agents, or two creators: %+v, %+v", one.a, other.a)
	}
}

// A job that somebody left behind who was killed, and whose pod never ran, is
// no obstacle to the next start.
func TestStartAfterOneLeftBehind(t *testing.T) {
	c, spec := openShop(t), echoSpec(t)
	left, err := job(web(t, c), spec)
	if err != nil {
		t.Fatal(err)
	}
	left.Spec.Template.Spec.Containers[0].Image = "mirrord.test/absent:1"
	if err := c.create(t.Context(), jobs, left.Namespace, left, new(batchv1.Job)); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "", "wait", "job/"+left.Name, "-n", left.Namespace, "--for=jsonpath={.status.active}=1", "--timeout=60s")
	kubectl(t, "", "wait", "pod", "-l", labelJob+"="+left.Name, "-n", left.Namespace,
		"--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull", "--timeout=60s")
	made := new(batchv1.Job)
	if err := c.get(t.Context(), jobs, left.Namespace, left.Name, made); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(made.CreationTimestamp.Add(staleAge + time.Second))) // it must be old
	if a := startEcho(t, c, spec); !a.Created {
		t.Errorf("the start uses what was left: %+v", a)
	}
}

// An agent without a target is an ordinary pod, which the strictest policy
// admits, and is shared as any other.
func TestStartTargetless(t *testing.T) {
	loadEcho(t)
	namespace := freshNamespace(t, "pod-security.kubernetes.io/enforce=restricted")
	c := realCluster(t, namespace)
	target, err := c.Resolve(t.Context(), Path{Kind: Targetless})
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.StartAgent(t.Context(), target, echoSpec(t), nil, closing(hello))
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.StartAgent(t.Context(), target, echoSpec(t), nil, closing(hello))
	if err != nil || b.Pod != a.Pod || b.Created {
		t.Errorf("the second start: %+v, %v", b, err)
	}
	got := kubectl(t, "", "get", "pod", a.Pod, "-n", namespace, "-o", "jsonpath={.spec.hostPID} {.spec.containers[0].securityContext.capabilities.add}")
	if got != "" {
		t.Errorf("the agent has hostPID and capabilities: %q", got)
	}
}

// An agent that has ended is replaced, and Gone says why it did.
func TestStartAgain(t *testing.T) {
	c, spec := openShop(t), echoSpec(t)
	spec.TTL = time.Minute
	a := startEcho(t, c, spec)
	send(t, a, "crash\n")
	want := "the agent has ended (exit code 3): told to crash"
	if err := waitGone(t, a); !IsKind(err, AgentFailed) || !strings.Contains(err.Error(), want) {
		t.Errorf("Gone = %v, want %q", err, want)
	}
	b := startEcho(t, c, spec)
	if b.Pod == a.Pod || !b.Created {
		t.Errorf("the crashed agent was used again: %+v", b)
	}
	kubectl(t, "", "delete", "job", "-n", b.Namespace, b.Job)
	if err := waitGone(t, b); !IsKind(err, AgentFailed) {
		t.Errorf("Gone = %v after the pod was deleted", err)
	} else {
		t.Log(err)
	}
}

func send(t *testing.T, a *Agent, line string) {
	t.Helper()
	conn := dial(t, a)
	if _, err := conn.Write([]byte(line)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the agent answered instead of ending")
	}
}

// waitGone waits until Gone is an error.
func waitGone(t *testing.T, a *Agent) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if err := a.Gone(ctx); err != nil {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			break
		}
	}
	t.Fatal("the agent's pod never ended")
	return nil
}

// Whatever keeps the agent from running ends the start at once, in the
// cluster's own words, and leaves nothing.
func TestStartFails(t *testing.T) {
	c := openShop(t)
	good := echoSpec(t)
	for _, test := range []struct {
		name   string
		spec   func(*AgentSpec)
		labels []string // of the agent's namespace
		objs   string   // in it
		want   []string
	}{
		{name: "image not present", spec: func(s *AgentSpec) { s.Image = "mirrord.test/absent:1" },
			want: []string{"ErrImageNeverPull", "mirrord.test/absent:1"}},
		{name: "image not pulled", spec: func(s *AgentSpec) { s.Image, s.PullPolicy = "mirrord.test/absent:1", "Always" },
			want: []string{"ErrImagePull", "mirrord.test/absent:1"}},
		{name: "image name", spec: func(s *AgentSpec) { s.Image = "NOT AN IMAGE" },
			want: []string{"InvalidImageName"}},
		{name: "no such command", spec: func(s *AgentSpec) { s.Command = []string{"/absent"} },
			want: []string{"/absent", "no such file"}},
		{name: "missing service account", spec: func(s *AgentSpec) { s.ServiceAccount = "absent" },
			want: []string{`service account`, "absent"}},
		{name: "crash", spec: func(s *AgentSpec) { s.Args = []string{"-crash", "kernel too old"} },
			want: []string{"exit code 3", "kernel too old"}},
		{name: "out of cpu", spec: func(s *AgentSpec) { s.Resources = []byte(`{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}`) },
			want: []string{"OutOfcpu"}},
		{name: "quota", objs: quota, want: []string{"exceeded quota: none"}},
		{name: "pod security", labels: []string{"pod-security.kubernetes.io/enforce=restricted"},
			want: []string{"violates PodSecurity", "hostPID"}},
		{name: "no namespace", spec: func(s *AgentSpec) { s.Namespace = "absent" },
			want: []string{`namespaces "absent" not found`}},
		{name: "bad tolerations", spec: func(s *AgentSpec) { s.Tolerations = []byte(`[{"opertor":"Exists"}]`) },
			want: []string{"agent.tolerations", "opertor"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			spec := good
			spec.Build, spec.TTL = t.Name(), time.Minute
			spec.Namespace = freshNamespace(t, test.labels...)
			if test.objs != "" {
				kubectl(t, test.objs, "apply", "-n", spec.Namespace, "-f", "-")
			}
			where := spec.Namespace
			if test.spec != nil {
				test.spec(&spec)
			}
			target := web(t, c)
			began := time.Now()
			_, err := c.StartAgent(t.Context(), target, spec, nil, closing(hello))
			took := time.Since(began)
			t.Logf("%v: %v", took, err)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error = %v, want %q", err, want)
				}
			}
			if took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
			nothingLeft(t, where, jobName(target, spec))
		})
	}
}

// Where the agent cannot run, as its target has ended meanwhile, that is said.
func TestStartForEnded(t *testing.T) {
	target, spec := *web(t, openShop(t)), echoSpec(t)
	namespace := freshNamespace(t)
	kubectl(t, "", "run", "ended", "-n", namespace, "--image="+echoImage, "--image-pull-policy=Never", "--restart=Never", "--", "-crash", "so it is")
	kubectl(t, "", "wait", "pod/ended", "-n", namespace, "--for=jsonpath={.status.phase}=Failed", "--timeout=60s")
	target.Namespace, target.Pod, target.Container = namespace, "ended", "ended"
	spec.Args = []string{"-crash", "no process of that container"}
	_, err := realCluster(t, namespace).StartAgent(t.Context(), &target, spec, nil, closing(hello))
	if !IsKind(err, NotRunning) || !strings.Contains(err.Error(), "using pod ended in namespace "+namespace+": the pod has failed") {
		t.Errorf("error = %v", err)
	}
	nothingLeft(t, namespace, jobName(&target, spec))
}

const quota = `
apiVersion: v1
kind: ResourceQuota
metadata: {name: none}
spec: {hard: {pods: "0"}}
`

// A start that is cancelled takes its job away, unless somebody else uses it.
func TestStartCancelled(t *testing.T) {
	c, spec := openShop(t), echoSpec(t)
	target := web(t, c)
	t.Run("alone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := c.StartAgent(ctx, target, spec, nil, func(ctx context.Context, conn net.Conn) error {
			cancel()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("StartAgent = %v, want context.Canceled", err)
		}
		nothingLeft(t, target.Namespace, jobName(target, spec))
	})
	t.Run("at any moment", func(t *testing.T) {
		for delay := time.Duration(0); delay < 200*time.Millisecond; delay += 20 * time.Millisecond {
			ctx, cancel := context.WithTimeout(t.Context(), delay)
			_, err := c.StartAgent(ctx, target, spec, nil, closing(func(ctx context.Context, _ net.Conn) error {
				<-ctx.Done()
				return ctx.Err()
			}))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %v: %v", delay, err)
			}
		}
		nothingLeft(t, target.Namespace, jobName(target, spec))
	})
	t.Run("shared", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var other *Agent
		_, err := c.StartAgent(ctx, target, spec, nil, func(context.Context, net.Conn) error {
			other = startEcho(t, c, spec)
			cancel()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("StartAgent = %v, want context.Canceled", err)
		}
		if err := hello(t.Context(), dial(t, other)); err != nil {
			t.Errorf("the other's agent after our end: %v", err)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		spec := spec
		spec.Build, spec.StartupTimeout = t.Name(), 2*time.Second
		_, err := c.StartAgent(t.Context(), target, spec, nil, closing(func(context.Context, net.Conn) error { return errors.New("not yet") }))
		if !IsKind(err, AgentFailed) || !strings.Contains(err.Error(), "not reached within 2s") || !strings.Contains(err.Error(), "not yet") {
			t.Errorf("StartAgent = %v", err)
		}
		nothingLeft(t, target.Namespace, jobName(target, spec))
	})
	t.Run("final", func(t *testing.T) {
		spec := spec
		spec.Build = t.Name()
		_, err := c.StartAgent(t.Context(), target, spec, nil, closing(func(ctx context.Context, conn net.Conn) error {
			if err := hello(ctx, conn); err != nil {
				return err
			}
			return ErrFinal
		}))
		if !errors.Is(err, ErrFinal) {
			t.Errorf("StartAgent = %v", err)
		}
		nothingLeft(t, target.Namespace, jobName(target, spec))
	})
}

// Every right that a start needs is named when it lacks.
func TestStartRights(t *testing.T) {
	admin, spec := openShop(t), echoSpec(t)
	target := web(t, admin)
	job, pods, forward := rule("batch", "jobs", "get,create,patch,delete"), rule("", "pods", "get,list,watch"), rule("", "pods/portforward", "create,get")
	for _, test := range []struct {
		name  string
		rules []string
		want  string // "": it works
	}{
		{"all but events", []string{job, pods, forward}, ""},
		{"no jobs", []string{pods, forward}, "create jobs.batch"},
		{"no pods", []string{job, forward}, "watch pods"},
		{"no portforward", []string{job, pods}, "create pods --subresource=portforward"},
	} {
		t.Run(test.name, func(t *testing.T) {
			user := restricted(t, shop.namespace, test.rules...)
			spec := spec
			spec.Build = t.Name()
			a, err := user.StartAgent(t.Context(), target, spec, nil, closing(hello))
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				kubectl(t, "", "delete", "job", "-n", a.Namespace, a.Job)
				return
			}
			line := "kubectl auth can-i " + test.want + " -n " + shop.namespace + " --context mirrord-test"
			if !IsKind(err, Forbidden) || !strings.Contains(err.Error(), line) {
				t.Errorf("StartAgent = %v\nwant %s", err, line)
			}
			nothingLeft(t, target.Namespace, jobName(target, spec))
		})
	}
}
