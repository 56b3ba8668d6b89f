package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Certificate reads a certificate and its key from a Secret, both PEM.
func (c *Cluster) Certificate(ctx context.Context, namespace, name string) (cert, key []byte, err error) {
	var s corev1.Secret
	if err := c.get(ctx, secrets, namespace, name, &s); err != nil {
		return nil, nil, err
	}
	for _, k := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
		if len(s.Data[k]) == 0 {
			return nil, nil, &Error{
				Kind: BadConfig, Msg: fmt.Sprintf("reading the pod's certificate from secret %s of namespace %s", name, namespace),
				Err: fmt.Errorf("it has no %s", k), Hint: "a secret of a certificate has tls.crt and tls.key",
			}
		}
	}
	return s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey], nil
}
