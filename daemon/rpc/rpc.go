// Package rpc is the daemon as its clients see it: one per user, started by the
// first client that finds none, answering JSON-RPC (package protocol/ide) on a
// socket in the runtime directory.
//
//	Dial ──no socket──▶ start.lock ──▶ mirrord daemon ──daemon.lock──▶ Run ──ready──▶ Dial
//
// Its rules: a daemon of another build is replaced when nothing runs in it;
// nothing a client sends ends the daemon; the daemon reads neither its own
// environment nor its own directory, for they are the first client's.
package rpc

import (
	"context"

	"mirrord/protocol/ide"
)

// Sessions are what the requests are about. Errors that are *ide.Error reach
// the client with code and hint.
type Sessions interface {
	Targets(ctx context.Context, p ide.TargetListParams, tell func([]ide.Target)) (ide.TargetListResult, error)
	Contexts(ctx context.Context, p ide.TargetListParams) (ide.ContextsResult, error)
	Namespaces(ctx context.Context, p ide.TargetListParams) (ide.NamespacesResult, error)
	Verify(p ide.ConfigVerifyParams) (ide.ConfigVerifyResult, error)
	DefaultConfig() ide.ConfigDefaultResult
	Explain(ctx context.Context, p ide.ConfigExplainParams) (ide.ConfigExplainResult, error)
	Start(ctx context.Context, p ide.SessionStartParams, progress func(message string)) (ide.Session, error)
	Launch(ctx context.Context, id string) (ide.Launch, error)
	Restart(ctx context.Context, p ide.SessionRestartParams) (ide.Session, error)
	Arm(ctx context.Context, id string) error
	Stop(ctx context.Context, id string) error
	// Events tells until the session's end, or ctx's.
	Events(ctx context.Context, p ide.SessionEventsParams, tell func(ide.SessionEvent)) error
	Request(p ide.RequestParams) (ide.RequestResult, error)
	Serving(ctx context.Context, p ide.ServingParams) (ide.ServingResult, error)
	ListFiles(ctx context.Context, p ide.FileParams) (ide.FileListResult, error)
	StatFile(ctx context.Context, p ide.FileParams) (ide.FileEntry, error)
	ReadFile(ctx context.Context, p ide.FileReadParams) (ide.FileReadResult, error)
	Debug(ctx context.Context, p ide.DebugStartParams, progress func(message string)) (ide.Debug, error)
	List() []ide.Session
	Holders(ctx context.Context, p ide.TargetListParams) (ide.HoldersResult, error)
	End()                         // ends them all, and tells so
	Release(id string, tied bool) // a connection that started it is gone; tied: so the session ends
}

// A Manager is Sessions with the socket of their launchers.
type Manager interface {
	Sessions
	Serve(ctx context.Context) error // until ctx is done
	LayerSocket() string
	Close()
}
