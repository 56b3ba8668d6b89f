package cluster

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// PodAt names the pod that has an address, as "NAMESPACE/NAME". "": it is not
// known, or that of several, as pods in their node's network have it. Where all
// namespaces may not be listed it is looked for in the client's own.
func (c *Cluster) PodAt(ctx context.Context, addr netip.Addr) (string, error) {
	var list corev1.PodList
	fields := "status.podIP=" + addr.Unmap().String()
	err := c.list(ctx, pods, "", "", fields, &list)
	if IsKind(err, Forbidden) {
		list = corev1.PodList{}
		err = c.list(ctx, pods, c.namespace, "", fields, &list)
	}
	if err != nil {
		return "", err
	}
	name := ""
	for i := range list.Items {
		pod := &list.Items[i]
		if phase := pod.Status.Phase; phase == corev1.PodSucceeded || phase == corev1.PodFailed {
			continue // its address may be another's by now
		}
		if name != "" {
			return "", nil
		}
		name = pod.Namespace + "/" + pod.Name
	}
	return name, nil
}
