package session

import (
	"errors"
	"strings"
	"testing"

	"mirrord/daemon/cluster"
	"mirrord/daemon/config"
	"mirrord/protocol/ide"
)

// A pod in its node's network has its ports taken only where that is asked for.
func TestOfNode(t *testing.T) {
	pod := &cluster.Target{Namespace: "shop", Pod: "web", Node: "node-1"}
	node := *pod
	node.HostNetwork = true
	for _, test := range []struct {
		target   *cluster.Target
		incoming config.Incoming
		refused  bool
	}{
		{pod, config.Incoming{Mode: "steal"}, false},
		{&node, config.Incoming{Mode: "steal"}, true},
		{&node, config.Incoming{Mode: "mirror"}, true},
		{&node, config.Incoming{Mode: "off"}, false},
		{&node, config.Incoming{Mode: "steal", HostNetwork: true}, false},
	} {
		err := ofNode(test.target, &config.Config{Incoming: test.incoming})
		if (err != nil) != test.refused {
			t.Errorf("%+v, %+v: %v", test.target, test.incoming, err)
		}
		if e, ok := errors.AsType[*ide.Error](err); test.refused && (!ok || !strings.Contains(e.Msg, "node-1") || !strings.Contains(e.Hint, "host_network")) {
			t.Errorf("%+v, %+v: %#v", test.target, test.incoming, err)
		}
	}
}
