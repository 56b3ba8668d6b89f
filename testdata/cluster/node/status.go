package node

import "context"

// A Status is the node as the API server knows it.
type Status struct {
	Ready   bool
	Reason  string // why not
	Version string // of the kubelet
}

// GetStatus asks for the node's.
func GetStatus(ctx context.Context, api *API) (Status, error) {
	var got struct {
		Status struct {
			NodeInfo   struct{ KubeletVersion string }
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := api.Get(ctx, "/api/v1/nodes/"+Name, &got); err != nil {
		return Status{}, err
	}
	s := Status{Version: got.Status.NodeInfo.KubeletVersion, Reason: "the kubelet has not said"}
	for _, c := range got.Status.Conditions {
		if c.Type == "Ready" {
			s.Ready, s.Reason = c.Status == "True", c.Message
		}
	}
	return s, nil
}

// CountPods counts those that run and all, in every namespace.
func CountPods(ctx context.Context, api *API) (running, all int, err error) {
	var got struct {
		Items []struct{ Status struct{ Phase string } }
	}
	if err := api.Get(ctx, "/api/v1/pods", &got); err != nil {
		return 0, 0, err
	}
	for _, p := range got.Items {
		if p.Status.Phase == "Running" {
			running++
		}
	}
	return running, len(got.Items), nil
}
