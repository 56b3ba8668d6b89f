package cluster

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What an agent's pod is doing, as progress tells it.
const (
	starting = "starting"
	running  = "running"
	ended0   = "ended" // with exit code 0, or it is being deleted
)

// noImage and hopeless are the reasons for waiting that kubelet retries in
// vain, or so late that nobody waits for it.
var noImage = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable",
}

var hopeless = []string{
	"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff", "PreCreateHookError",
}

// state looks at an agent's pod. The error is why it will never run.
func state(pod *corev1.Pod) (string, error) {
	status := pod.Status
	con := containerStatus(pod, agentName)
	switch {
	case status.Phase == corev1.PodSucceeded:
		return ended0, nil
	case con != nil && con.State.Terminated != nil && (con.State.Terminated.ExitCode != 0 || status.Phase == corev1.PodFailed):
		t := con.State.Terminated
		if pod.DeletionTimestamp != nil {
			return ended0, nil
		}
		return "", errors.New(words("the agent has ended", ended(t), lastWords(t.Message)))
	case status.Phase == corev1.PodFailed: // OutOfcpu, Evicted, NodeAffinity …
		return "", errors.New(words("its pod has failed", status.Reason, status.Message))
	case pod.DeletionTimestamp != nil:
		return ended0, nil
	case con != nil && con.State.Running != nil:
		return running, nil
	case con != nil && con.State.Waiting != nil:
		w := con.State.Waiting
		if slices.Contains(noImage, w.Reason) {
			return "", imageError(words(w.Reason, "", w.Message))
		}
		if slices.Contains(hopeless, w.Reason) {
			return "", errors.New(words(w.Reason, "", w.Message))
		}
		return cmp.Or(w.Reason, starting), nil
	}
	for _, c := range status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "", errors.New(words(c.Reason, "", c.Message))
		}
	}
	return starting, nil
}

// An imageError is an image that the node does not get.
type imageError string

func (e imageError) Error() string { return string(e) }

// hintOf says what to do about state's error.
func hintOf(err error) string {
	if errors.As(err, new(imageError)) {
		return "make the image available to the node, or name another by the setting agent.image"
	}
	return ""
}

// hasEnded: the pod did run, and will not again.
func hasEnded(pod *corev1.Pod) bool {
	con := containerStatus(pod, agentName)
	return pod.Status.Phase == corev1.PodFailed || con != nil && con.State.Terminated != nil
}

// lastWords is the end of a crashed agent's log, without what it tells of its
// ordinary work.
func lastWords(log string) string {
	const keep, most = 600, 2048 // most is kubelet's: a longer one begins within a line
	if len(log) >= most {
		_, log, _ = strings.Cut(log, "\n")
	}
	var said []string
	for line := range strings.Lines(log) {
		if !strings.Contains(line, " level=INFO ") && !strings.HasPrefix(line, "listening on ") {
			said = append(said, line)
		}
	}
	log = strings.TrimSpace(strings.Join(said, ""))
	if len(log) > keep {
		log = log[len(log)-keep:]
		if _, whole, ok := strings.Cut(log, "\n"); ok {
			log = whole
		}
		log = "…" + log
	}
	return log
}
