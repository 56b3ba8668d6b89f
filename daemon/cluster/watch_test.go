package cluster

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// runningPod is a pod whose container app runs as the container of an id.
func runningPod(id string) *corev1.Pod {
	pod := podWith("app")
	pod.Name, pod.UID = "web-1", "1"
	pod.Status.Phase = corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "app", ContainerID: "containerd://" + id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	}}
	return pod
}

func TestSeeChanges(t *testing.T) {
	restarted := runningPod("b")
	restarted.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}
	waiting := runningPod("a")
	waiting.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	ending := runningPod("b")
	ending.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	evicted := runningPod("b")
	evicted.Status.Phase, evicted.Status.Reason, evicted.Status.Message = corev1.PodFailed, "Evicted", "The node was low on memory."
	completed := runningPod("b")
	completed.Status.Phase = corev1.PodSucceeded
	other := runningPod("c")
	other.UID = "2"
	for name, test := range map[string]struct {
		pods []*corev1.Pod
		want []Change
		end  bool
	}{
		"nothing":   {pods: []*corev1.Pod{runningPod("a"), waiting, runningPod("a")}},
		"restarted": {pods: []*corev1.Pod{waiting, restarted, restarted}, want: []Change{{Restarted, "target pod web-1 has restarted its container app (OOMKilled, exit code 137)", "b"}}},
		"ending":    {pods: []*corev1.Pod{ending, ending}, want: []Change{{Ending, "target pod web-1 is being deleted", ""}}},
		"evicted":   {pods: []*corev1.Pod{evicted}, want: []Change{{Gone, "target pod web-1 has failed (Evicted): The node was low on memory.", ""}}, end: true},
		"completed": {pods: []*corev1.Pod{completed}, want: []Change{{Gone, "target pod web-1 has completed", ""}}, end: true},
		"replaced":  {pods: []*corev1.Pod{other}, want: []Change{{Gone, "target pod web-1 was deleted; there is another of its name", ""}}, end: true},
	} {
		var got []Change
		w := &watcher{
			target:    &Target{Pod: "web-1", UID: "1", Container: "app", ContainerID: "a"},
			container: "a", tell: func(c Change) { got = append(got, c) },
		}
		var err error
		for _, pod := range test.pods {
			err = w.see(pod)
		}
		if diff := cmp.Diff(test.want, got); diff != "" || errors.Is(err, errGone) != test.end {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestReplicaOf(t *testing.T) {
	ready := runningPod("a")
	ready.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	ending := ready.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	failed := ready.DeepCopy()
	failed.Status.Phase, failed.Status.Reason = corev1.PodFailed, "Evicted"
	waiting := ready.DeepCopy()
	waiting.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	for name, test := range map[string]struct {
		pod       *corev1.Pod
		container string
		want      Replica
	}{
		"ready":     {pod: ready, want: Replica{Target: &Target{}, Ready: true}},
		"not ready": {pod: runningPod("a"), want: Replica{Target: &Target{}, Why: "it is not ready"}},
		"waiting":   {pod: waiting, want: Replica{Why: "container app is waiting (CrashLoopBackOff)"}},
		"ending":    {pod: ending, want: Replica{Why: "the pod is being deleted", Gone: true}},
		"failed":    {pod: failed, want: Replica{Why: "the pod has failed (Evicted)", Gone: true}},
		"other container": {pod: ready, container: "web",
			want: Replica{Why: `finding container "web": pod web-1 in namespace  does not have it`}},
	} {
		got := replicaOf(test.pod, Path{Kind: "deployment", Name: "web", Container: test.container})
		if got.Pod != "web-1" || got.UID != "1" || (got.Target != nil) != (test.want.Target != nil) ||
			got.Gone != test.want.Gone || got.Ready != test.want.Ready || !strings.HasPrefix(got.Why, test.want.Why) || (got.Why == "") != (test.want.Why == "") {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}
