package session

import (
	"errors"

	"mirrord/daemon/cluster"
	"mirrord/protocol/ide"
)

// codes say which of the clients' codes a failure of the cluster has.
var codes = map[cluster.Kind]int{
	cluster.NoKubeconfig:     ide.CodeCluster,
	cluster.BadConfig:        ide.CodeConfig,
	cluster.UnknownContext:   ide.CodeCluster,
	cluster.Unreachable:      ide.CodeCluster,
	cluster.Unauthorized:     ide.CodeCluster,
	cluster.Forbidden:        ide.CodeForbidden,
	cluster.UnknownNamespace: ide.CodeTarget,
	cluster.BadTarget:        ide.CodeUsage,
	cluster.UnknownTarget:    ide.CodeTarget,
	cluster.UnknownContainer: ide.CodeTarget,
	cluster.NotRunning:       ide.CodeTarget,
	cluster.AgentFailed:      ide.CodeAgent,
	cluster.Refused:          ide.CodeCluster,
}

// clusterError tells clients of a failure with target or agent.
func clusterError(err error) error {
	var known *ide.Error
	if errors.As(err, &known) {
		return err
	}
	var e *cluster.Error
	if !errors.As(err, &e) {
		return &ide.Error{Code: ide.CodeAgent, Msg: err.Error(), Err: err}
	}
	msg := e.Msg
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return &ide.Error{Code: codes[e.Kind], Msg: msg, Hint: e.Hint, Err: err}
}

func configError(err error) error {
	var known *ide.Error
	if errors.As(err, &known) {
		return err
	}
	return &ide.Error{Code: ide.CodeConfig, Msg: err.Error(), Err: err}
}
