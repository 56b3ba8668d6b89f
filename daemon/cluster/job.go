package cluster

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	agentName = "mirrord-agent"
	labelName = "app.kubernetes.io/name"

	labelJob    = "mirrord/agent" // the job's name
	labelTarget = "mirrord/target"
	labelBuild  = "mirrord/build"

	// targetPath is of the target: NAMESPACE/POD/CONTAINER.
	targetPath = "mirrord/target"

	// adopted marks a job that another session than its creator's has started
	// to use, so that a creator that gives up leaves it alone.
	adopted = "mirrord/adopted"
	creator = "mirrord/creator" // random, by start
)

// AgentSpec says how an agent is to run: the settings agent.* and what the
// daemon knows itself. Two sessions share an agent when target, Namespace,
// Build and Image are the same.
type AgentSpec struct {
	Image   string
	Build   string   // build id of daemon and agent
	Args    []string // of the agent
	Port    int      // where it listens, on its pod's loopback
	Command []string // nil: /mirrord-agent

	Namespace      string // "": the target's
	PullPolicy     string // "": IfNotPresent
	PullSecrets    []string
	ServiceAccount string
	PriorityClass  string
	Labels         map[string]string
	Annotations    map[string]string
	Tolerations    json.RawMessage // as in a pod's spec; nil: every taint
	Resources      json.RawMessage // as in a container's spec; nil: small ones

	NodeSelector map[string]string // of an agent without a target

	Privileged           bool
	DisabledCapabilities []string
	MeshInjection        bool // let a mesh put its sidecar into the agent's pod

	TTL            time.Duration // how long the finished job stays; 0: 10 s
	StartupTimeout time.Duration // 0: 60 s
}

// capabilities is what the agent needs to enter the target's namespaces, read
// its files and take over its ports (never privileged); then to change files as
// the target's user, with what a container's root has for files and no more.
var capabilities = []corev1.Capability{
	"SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "NET_RAW", "DAC_READ_SEARCH", "KILL",
	"SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID",
}

// jobName is the same for everybody who wants this agent, also after the
// container's restart, which an agent lives through.
func jobName(t *Target, s AgentSpec) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{t.UID, t.Container, s.Build, s.Image}, "\x00")))
	return agentName + "-" + strings.ToLower(label(strings.ReplaceAll(t.name(), ".", "-"), 36)) + "-" + hex.EncodeToString(sum[:5])
}

// name is the pod's, for names and labels of its agent.
func (t *Target) name() string {
	if t.Targetless() {
		return Targetless
	}
	return t.Pod
}

// job is the agent's manifest.
func job(t *Target, s AgentSpec) (*batchv1.Job, error) {
	tolerations := []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	if err := setting("tolerations", s.Tolerations, &tolerations); err != nil {
		return nil, err
	}
	// Both limits stand there because a quota may demand them. What is on its way
	// to a slow reader waits in memory: 4 MiB, and as much again, of each stream.
	resources := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("1m"), "memory": resource.MustParse("1Mi")},
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")},
	}
	if err := setting("resources", s.Resources, &resources); err != nil {
		return nil, err
	}
	name := jobName(t, s)
	labels, annotations := s.metadata(t, name)
	jobAnnotations := maps.Clone(annotations)
	jobAnnotations[creator] = rand.Text()
	var secrets []corev1.LocalObjectReference
	for _, n := range s.PullSecrets {
		secrets = append(secrets, corev1.LocalObjectReference{Name: n})
	}
	return &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: cmp.Or(s.Namespace, t.Namespace), Labels: labels, Annotations: jobAnnotations},
		Spec: batchv1.JobSpec{
			BackoffLimit:            new(int32(0)),
			TTLSecondsAfterFinished: new(int32(cmp.Or(s.TTL, 10*time.Second).Seconds())),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
				Spec: corev1.PodSpec{
					NodeName:                      t.Node,
					NodeSelector:                  s.selector(t),
					HostPID:                       !t.Targetless(),
					RestartPolicy:                 corev1.RestartPolicyNever,
					Tolerations:                   tolerations,
					ImagePullSecrets:              secrets,
					ServiceAccountName:            s.ServiceAccount,
					PriorityClassName:             s.PriorityClass,
					AutomountServiceAccountToken:  new(false),
					EnableServiceLinks:            new(false),
					TerminationGracePeriodSeconds: new(int64(5)),
					Containers: []corev1.Container{{
						Name:            agentName,
						Image:           s.Image,
						ImagePullPolicy: corev1.PullPolicy(cmp.Or(s.PullPolicy, string(corev1.PullIfNotPresent))),
						Command:         s.command(),
						Args:            s.Args,
						Resources:       resources,
						SecurityContext: s.security(t),
						// Its last words come with the pod's status: no right to read logs is needed.
						TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
					}},
				},
			},
		},
	}, nil
}

func (s AgentSpec) command() []string {
	if s.Command == nil {
		return []string{"/" + agentName}
	}
	return s.Command
}

func (s AgentSpec) selector(t *Target) map[string]string {
	if t.Targetless() {
		return s.NodeSelector
	}
	return nil // it runs where its target does
}

// nobody is the user of an agent that enters no other container.
const nobody = 65534

func (s AgentSpec) security(t *Target) *corev1.SecurityContext {
	if t.Targetless() { // as the strictest policies want it
		return &corev1.SecurityContext{
			RunAsUser: new(int64(nobody)), RunAsGroup: new(int64(nobody)), RunAsNonRoot: new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
	}
	root := &corev1.SecurityContext{RunAsUser: new(int64(0)), RunAsGroup: new(int64(0)), RunAsNonRoot: new(false)}
	if s.Privileged {
		root.Privileged = new(true)
		return root
	}
	add := slices.DeleteFunc(slices.Clone(capabilities), func(c corev1.Capability) bool {
		return slices.Contains(s.DisabledCapabilities, string(c))
	})
	root.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: add}
	root.AllowPrivilegeEscalation = new(false)
	root.ReadOnlyRootFilesystem = new(true)
	root.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	return root
}

// metadata is for the job and its pod; ours wins over the user's.
func (s AgentSpec) metadata(t *Target, name string) (labels, annotations map[string]string) {
	labels, annotations = map[string]string{}, map[string]string{}
	maps.Copy(labels, s.Labels)
	maps.Copy(annotations, s.Annotations)
	if !s.MeshInjection {
		for k, v := range map[string]string{
			"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled", "kuma.io/sidecar-injection": "disabled",
		} {
			labels[k], annotations[k] = v, v
		}
	}
	labels[labelName] = agentName
	labels[labelJob] = name
	labels[labelTarget] = label(t.name(), 63)
	labels[labelBuild] = label(s.Build, 63)
	if !t.Targetless() {
		annotations[targetPath] = t.Namespace + "/" + t.Pod + "/" + t.Container
	}
	return labels, annotations
}

// label makes s a label's value of at most n bytes.
func label(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '-'
	}, s)
	return strings.Trim(s[:min(n, len(s))], "-_.")
}

// setting decodes a piece of Kubernetes' own configuration language.
func setting(key string, raw json.RawMessage, into any) error {
	if raw == nil {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &Error{Kind: BadConfig, Msg: fmt.Sprintf("reading agent.%s", key), Err: err}
	}
	return nil
}
