package cluster

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
)

// A Listed is something in a namespace that can be a target, now or later.
type Listed struct {
	Path       Path
	Containers []string // the default one first
	Available  bool
	Reason     string // why not, if not
}

// pageSize is how many pods are asked for at a time.
const pageSize = 500

// listedKinds are the workloads of the listing, in its order.
var listedKinds = []*kind{deployments, rollouts, statefulsets}

// Targets lists a namespace ("": the client's): workloads first, pods last.
// Agents themselves are left out, and what the client may not list, by the plural
// names in hidden. What is known already goes to tell, if that is not nil: each
// target once, one call after the other. Of a workload that is the state of those
// of its pods that are known by then.
func (c *Cluster) Targets(ctx context.Context, namespace string, tell func([]Listed)) (all []Listed, hidden []string, err error) {
	if namespace != "" && namespace != c.namespace {
		c = c.in(namespace)
	}
	l := listing{c: c, tell: tell, told: map[Path]bool{}, workloads: make([][]*owner, len(listedKinds)), refused: make([]bool, len(listedKinds))}
	if tell == nil {
		l.tell = func([]Listed) {}
	}
	g, each := errgroup.WithContext(ctx)
	g.Go(func() error { return l.readPods(each) })
	for i := range listedKinds {
		g.Go(func() error { return l.readWorkloads(each, i) })
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	if len(l.pods) == 0 {
		if err := c.checkNamespace(ctx); err != nil {
			return nil, nil, err
		}
	}
	return l.all(), l.hidden(), nil
}

// A listing is one namespace's as far as it is known.
type listing struct {
	c *Cluster

	telling sync.Mutex     // orders the calls of tell, which may wait for the client
	tell    func([]Listed) // guarded by telling

	mu        sync.Mutex    // nothing waits under it
	pods      []*corev1.Pod // guarded by mu
	complete  bool          // guarded by mu; pods are all there are
	workloads [][]*owner    // guarded by mu; of listedKinds
	refused   []bool        // guarded by mu; of listedKinds
	told      map[Path]bool // guarded by mu
}

// An owner is a workload with those pods that it selects: each pod is looked
// at once.
type owner struct {
	path     Path
	selector labels.Selector
	own      []*corev1.Pod
	seen     int // how many of the listing's pods were looked at
}

func newOwner(k *kind, w *workload) *owner {
	s, err := w.parseSelector()
	if err != nil || s.Empty() {
		s = labels.Nothing()
	}
	return &owner{path: Path{Kind: k.name, Name: w.Metadata.Name}, selector: s}
}

// list describes the workload by the pods there are, which are those of before
// and further ones.
func (w *owner) list(all []*corev1.Pod) Listed {
	for _, pod := range all[w.seen:] {
		if w.selector.Matches(labels.Set(pod.Labels)) {
			w.own = append(w.own, pod)
		}
	}
	w.seen = len(all)
	l := Listed{Reason: "it has no pods"}
	if pod := best(w.own); pod != nil {
		l = describe(pod)
	} else if len(w.own) > 0 {
		l = describe(w.own[0])
		l.Available = false
		if l.Reason == "" {
			l.Reason = "no pod is ready"
		}
	}
	l.Path = w.path
	return l
}

// readPods reads them page by page. Where that takes so long that the API server
// has forgotten where the next page begins, it reads them all at once.
func (l *listing) readPods(ctx context.Context) error {
	limit, next := pageSize, ""
	for {
		var page corev1.PodList
		err := l.c.listPage(ctx, pods, l.c.namespace, limit, next, &page)
		if apierrors.IsResourceExpired(err) && limit > 0 {
			limit, next = 0, ""
			l.forgetPods()
			continue
		}
		if err != nil {
			return err
		}
		next = page.Continue
		l.addPods(pointers(page.Items), next == "")
		if next == "" {
			return nil
		}
	}
}

func (l *listing) forgetPods() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods = nil
	for _, list := range l.workloads {
		for _, w := range list {
			w.own, w.seen = nil, 0
		}
	}
}

func (l *listing) addPods(page []*corev1.Pod, last bool) {
	l.mu.Lock()
	l.pods = append(l.pods, page...)
	l.complete = last
	news := l.news(append(l.known(), listPods(page)...))
	l.mu.Unlock()
	l.report(news)
}

func (l *listing) readWorkloads(ctx context.Context, i int) error {
	var list workloadList
	err := l.c.list(ctx, listedKinds[i], l.c.namespace, "", "", &list)
	if absent(err) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.refused[i] = IsKind(err, Forbidden)
		return nil
	}
	if err != nil {
		return err
	}
	all := make([]*owner, len(list.Items))
	for j := range all {
		all[j] = newOwner(listedKinds[i], &list.Items[j])
	}
	l.mu.Lock()
	l.workloads[i] = all
	news := l.news(l.known())
	l.mu.Unlock()
	l.report(news)
	return nil
}

// known are the workloads that were not told and that no further pod makes
// available: they are already, or all pods are there. l.mu is held.
func (l *listing) known() []Listed {
	var list []Listed
	for _, workloads := range l.workloads {
		for _, w := range workloads {
			if l.told[w.path] {
				continue
			}
			if at := w.list(l.pods); at.Available || l.complete {
				list = append(list, at)
			}
		}
	}
	return list
}

// news is what was not told before, and counts as told. l.mu is held.
func (l *listing) news(list []Listed) []Listed {
	list = slices.DeleteFunc(list, func(at Listed) bool { return l.told[at.Path] })
	for _, at := range list {
		l.told[at.Path] = true
	}
	return list
}

func (l *listing) report(news []Listed) {
	if len(news) == 0 {
		return
	}
	l.telling.Lock()
	defer l.telling.Unlock()
	l.tell(news)
}

// all is the whole list.
func (l *listing) all() []Listed {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Listed
	for _, workloads := range l.workloads {
		for _, w := range workloads {
			list = append(list, w.list(l.pods))
		}
	}
	return append(list, listPods(l.pods)...)
}

// hidden names the kinds that may not be listed, but for rollouts: that is also
// said of a kind that the cluster does not have.
func (l *listing) hidden() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for i, k := range listedKinds {
		if l.refused[i] && k != rollouts {
			list = append(list, k.resource)
		}
	}
	return list
}

// in is the same cluster, looking into another namespace.
func (c *Cluster) in(namespace string) *Cluster {
	return &Cluster{
		log: c.log, config: c.config, context: c.context, namespace: namespace,
		http: c.http, rest: c.rest, upgrades: c.upgrades,
	}
}

func pointers(all []corev1.Pod) []*corev1.Pod {
	list := make([]*corev1.Pod, len(all))
	for i := range all {
		list[i] = &all[i]
	}
	return list
}

// listPods describes pods that are no agents.
func listPods(all []*corev1.Pod) []Listed {
	var list []Listed
	for _, pod := range all {
		if !isAgent(pod) {
			l := describe(pod)
			l.Path = Path{Kind: pods.name, Name: pod.Name}
			list = append(list, l)
		}
	}
	return list
}

func describe(pod *corev1.Pod) Listed {
	all := names(candidates(pod))
	l := Listed{Containers: all}
	if len(all) > 0 {
		l.Reason = idle(pod, all[0])
	}
	l.Available = l.Reason == ""
	return l
}
