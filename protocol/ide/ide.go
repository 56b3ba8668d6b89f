// Package ide is what clients (the command line, the extensions) say to the
// daemon: JSON-RPC 2.0 with the framing of the Language Server Protocol over
// the unix socket of the runtime directory. IDE.md is its specification.
package ide

import "fmt"

// Version is raised by one whenever an older client would misread the daemon.
//
//   - 1: first version
const Version = 1

// Methods a client calls. All take an object and answer one.
const (
	MethodInitialize       = "initialize"        // InitializeParams, InitializeResult
	MethodTargetList       = "target/list"       // TargetListParams, TargetListResult
	MethodTargetContexts   = "target/contexts"   // TargetListParams, ContextsResult
	MethodTargetNamespaces = "target/namespaces" // TargetListParams, NamespacesResult
	MethodConfigVerify     = "config/verify"     // ConfigVerifyParams, ConfigVerifyResult
	MethodConfigDefault    = "config/default"    // Empty, ConfigDefaultResult
	MethodConfigExplain    = "config/explain"    // ConfigExplainParams, ConfigExplainResult
	MethodSessionStart     = "session/start"     // SessionStartParams, Session
	MethodSessionLaunch    = "session/launch"    // SessionID, Launch
	MethodSessionStop      = "session/stop"      // SessionID, Empty
	MethodSessionList      = "session/list"      // Empty, SessionListResult
	MethodSessionHolders   = "session/holders"   // TargetListParams, HoldersResult
	MethodRestart          = "session/restart"   // SessionRestartParams, Session
	MethodSessionArm       = "session/arm"       // SessionID, Empty: without ID, of all that steal a single request
	MethodSessionEvents    = "session/events"    // SessionEventsParams, Empty: when the session has ended, or on cancellation
	MethodSessionEvent     = "session/event"     // notification from the daemon: SessionEvent
	MethodFileList         = "file/list"         // FileParams, FileListResult
	MethodFileStat         = "file/stat"         // FileParams, FileEntry
	MethodFileRead         = "file/read"         // FileReadParams, FileReadResult
	MethodDebugStart       = "debug/start"       // DebugStartParams, Debug
	MethodShutdown         = "daemon/shutdown"   // ShutdownParams, Empty
	MethodCancel           = "$/cancelRequest"   // notification: CancelParams
	MethodProgress         = "$/progress"        // notification from the daemon: Progress
)

// Names in the runtime directory.
const (
	SocketName = "daemon.sock" // where clients connect to
	LogName    = "daemon.log"
)

// Error codes beside those of JSON-RPC; Error.Data is an ErrorData.
const (
	CodeCancelled   = -32800 // as in LSP
	CodeParams      = -32602 // JSON-RPC's: a parameter is none that the method knows
	CodeConfig      = 1      // the configuration is wrong
	CodeCluster     = 2      // the cluster could not be used
	CodeTarget      = 3      // the target could not be used
	CodeForbidden   = 4      // the cluster refused for want of a right
	CodeAgent       = 5      // the agent did not start or is gone
	CodeUnsupported = 6      // this machine lacks something
	CodeSession     = 7      // no such session
	CodeUsage       = 9      // an override, or how the target is written, makes no sense
	CodeBuild       = 8      // client and daemon are of different builds, and the daemon is busy
	CodeFile        = 10     // a file of the target could not be read; ErrorData.Errno says why
)

// MaxFileRead is the most bytes that one file/read answers.
const MaxFileRead = 4 << 20

// Kinds of a FileEntry.
const (
	FileRegular   = "file"
	FileDirectory = "directory"
	FileSymlink   = "symlink"
	FileOther     = "other" // a device, a FIFO, a socket
)

// What config/explain explains.
const (
	ExplainPath    = "path"    // an absolute path, or one relative to the client's directory
	ExplainConnect = "connect" // [tcp://|udp://]ADDRESS:PORT or unix:PATH
	ExplainName    = "name"    // of a host
)

// Kinds of a SessionEvent.
const (
	EventStarted    = "started"    // the session is there; Message: its target
	EventLaunched   = "launched"   // a launcher has come
	EventLeft       = "left"       // a launcher has gone
	EventDebuggee   = "debuggee"   // Delve has started process PID
	EventStopped    = "stopped"    // the debugger has stopped PID
	EventContinued  = "continued"  // PID runs again
	EventExited     = "exited"     // PID, which was debugged, has ended
	EventTaken      = "taken"      // Port is stolen, or mirrored; Message is the filter, if there is one
	EventWaiting    = "waiting"    // nobody listens at Port, and its connections wait for a restart
	EventGivenBack  = "givenBack"  // Port is the pod's again; Message: why
	EventArmed      = "armed"      // the next request that matches is stolen, and no other
	EventCaught     = "caught"     // it was, at Port; all others are the pod's
	EventConfigured = "configured" // the configuration was read again
	EventMoved      = "moved"      // another pod is the session's target; Message: which, as in Session
	EventMessage    = "message"    // Message, for the user
	EventEnded      = "ended"      // the session is gone; Message: why
	EventMissed     = "missed"     // the client was too slow, and events before this one are lost
)

// ErrorData goes with an error whose message alone does not say what to do.
type ErrorData struct {
	Hint  string `json:"hint,omitempty"`  // one line: the way out
	Errno string `json:"errno,omitempty"` // of CodeFile, Linux's name: "ENOENT"
}

type (
	Empty struct{}

	// InitializeParams must come first on every connection.
	InitializeParams struct {
		Version int    `json:"version"`
		Build   string `json:"build"`  // of the mirrord that the client is packed with; "": whichever runs
		Client  string `json:"client"` // who calls, for the log: "cli", "vscode 1.2.3"
	}
	InitializeResult struct {
		Version int    `json:"version"`
		Build   string `json:"build"`
		PID     int    `json:"pid"`
		Layer   string `json:"layer"` // path of the layer's socket
		Busy    int    `json:"busy"`  // sessions that run
	}

	// Client is what the daemon must know of the caller's process: it never
	// reads its own environment or directory.
	Client struct {
		Dir string   `json:"dir"`
		Env []string `json:"env,omitempty"` // NAME=value

		// Local are directories of this machine that stay so for the debuggee,
		// as its own do: an editor's, whose debuggers run in the debuggee.
		Local []string `json:"local,omitempty"`
	}

	// Overrides are the settings of the command line; they win over the file.
	Overrides struct {
		Target     string `json:"target,omitempty"`
		Namespace  string `json:"namespace,omitempty"`
		Context    string `json:"context,omitempty"`
		Kubeconfig string `json:"kubeconfig,omitempty"`
		Steal      bool   `json:"steal,omitempty"`
		FSMode     string `json:"fsMode,omitempty"`
		Agent      string `json:"agent,omitempty"` // HOST:PORT of an agent outside Kubernetes
	}

	TargetListParams struct {
		Client     Client    `json:"client"`
		ConfigFile string    `json:"configFile,omitempty"`
		Overrides  Overrides `json:"overrides"`
		Progress   string    `json:"progress,omitempty"` // target/list: token of $/progress, "" for none
	}
	TargetListResult struct {
		Namespace string   `json:"namespace"`
		Targets   []Target `json:"targets"`
		Hidden    []string `json:"hidden,omitempty"` // kinds that the client may not list: "deployments"
	}
	// Target is one thing that --target can name.
	Target struct {
		Path       string   `json:"path"` // "pod/web-1", "deployment/web"
		Containers []string `json:"containers,omitempty"`
		Available  bool     `json:"available"`
		Reason     string   `json:"reason,omitempty"` // why it is not available
	}

	// ContextsResult is what the kubeconfig offers; nobody asks the cluster.
	ContextsResult struct {
		Current  string   `json:"current,omitempty"`
		Contexts []string `json:"contexts"`
	}
	// NamespacesResult is what the cluster has.
	NamespacesResult struct {
		Current    string   `json:"current"` // where targets are looked for if nothing is said
		Namespaces []string `json:"namespaces"`
	}

	// ConfigVerifyParams: without ConfigFile the one that a session would find is
	// meant. Text is what an editor has in place of the file's content.
	ConfigVerifyParams struct {
		Client     Client    `json:"client"`
		ConfigFile string    `json:"configFile"`
		Text       *string   `json:"text,omitempty"`
		Overrides  Overrides `json:"overrides"`
	}
	// ConfigVerifyResult has, beside what is wrong, what file and overrides choose;
	// "" where nothing.
	ConfigVerifyResult struct {
		Problems   []Problem `json:"problems"`
		ConfigFile string    `json:"configFile"` // absolute path of the file meant; "": there is none
		Target     string    `json:"target"`
		Namespace  string    `json:"namespace"`
		Context    string    `json:"context"`
		Incoming   string    `json:"incoming"` // steal, mirror or off; "": mirror holds, since nothing is said
	}
	// ConfigDefaultResult is a file to begin with.
	ConfigDefaultResult struct {
		Name string `json:"name"`
		Text string `json:"text"`
	}
	// Problem is one thing wrong in a configuration file; Line and Column count from 1.
	Problem struct {
		File    string `json:"file"`
		Line    int    `json:"line"`
		Column  int    `json:"column"`
		Key     string `json:"key"`
		Message string `json:"message"`
		Warning bool   `json:"warning,omitempty"`
	}

	// ConfigExplainParams: what would a call of a debuggee come to that does this?
	// Session, if it is not "", stands for file and overrides. The cluster is asked
	// only about a path whose target is named: for its volume mounts.
	ConfigExplainParams struct {
		Client     Client    `json:"client"`
		ConfigFile string    `json:"configFile,omitempty"`
		Overrides  Overrides `json:"overrides"`
		Session    string    `json:"session,omitempty"`
		Kind       string    `json:"kind"` // an Explain constant
		Subject    string    `json:"subject"`
	}
	ConfigExplainResult struct {
		Kind    string `json:"kind"`
		Subject string `json:"subject"` // a path is absolute
		Verdict string `json:"verdict"` // local, remote, not found or refused
		// Writable: a remote path may be changed, as far as the target's user may.
		Writable bool   `json:"writable,omitempty"`
		Rule     string `json:"rule"`
		Setting  string `json:"setting,omitempty"` // that the rule comes from; "": it is built in
		From     string `json:"from,omitempty"`    // where that stands: FILE:LINE:COLUMN or a flag; "": nowhere, it is the default
		// Path is used instead of Subject, and MappedBy where it says so.
		Path     string   `json:"path,omitempty"`
		MappedBy string   `json:"mappedBy,omitempty"`
		Notes    []string `json:"notes,omitempty"` // what could not be known
		Warnings []string `json:"warnings,omitempty"`
	}

	// SessionStartParams: the session lives while this connection or a
	// launcher of it does.
	SessionStartParams struct {
		ID         string    `json:"id,omitempty"`      // of a session that a daemon's end took away; if it is there again, it is the answer
		Started    string    `json:"started,omitempty"` // when that began, RFC 3339
		Client     Client    `json:"client"`
		ConfigFile string    `json:"configFile,omitempty"`
		Overrides  Overrides `json:"overrides"`
		Pod        string    `json:"pod,omitempty"`      // of a workload: the one to be preferred if it is ready
		Tied       bool      `json:"tied,omitempty"`     // the session ends with this connection, and its debuggees do
		Launch     bool      `json:"launch,omitempty"`   // the answer is that of session/launch
		Progress   string    `json:"progress,omitempty"` // token of $/progress, "" for none
	}
	// Session tells of a session what anybody may know.
	Session struct {
		ID        string   `json:"id"`
		Target    string   `json:"target"`        // "pod/web-1/container/web in shop", or the agent's address
		Pod       string   `json:"pod,omitempty"` // whose environment, files and names the debuggee has
		Namespace string   `json:"namespace,omitempty"`
		Context   string   `json:"context,omitempty"`
		Started   string   `json:"started"` // RFC 3339
		Launchers int      `json:"launchers"`
		Stopped   int      `json:"stopped,omitempty"` // debuggees that their debugger stops
		Ports     []uint16 `json:"ports,omitempty"`   // stolen, or mirrored, at present
		Steals    bool     `json:"steals,omitempty"`  // what its debuggees listen on
		Mirrors   bool     `json:"mirrors,omitempty"`
		Replicas  []string `json:"replicas,omitempty"` // of a workload: the pods whose ports these are, Pod among them
		Filter    string   `json:"filter,omitempty"`   // of what is stolen, in words
		Once      bool     `json:"once,omitempty"`     // one request, or without a filter connection, is stolen each time it is armed
		Paused    bool     `json:"paused,omitempty"`   // the target is, meanwhile
		Warnings  []string `json:"warnings,omitempty"`
	}
	SessionID struct {
		ID string `json:"id"`
	}

	// HoldersResult is who has ports of the cluster's pods, whatever daemon it is of.
	HoldersResult struct {
		Holders  []Holder `json:"holders"`
		Problems []string `json:"problems"`          // why not all is known: agents that could not be asked, say
		Unasked  int      `json:"unasked,omitempty"` // so many agents
	}
	// Holder has a port of a pod.
	Holder struct {
		User      string `json:"user"`              // "alice@laptop"
		Session   string `json:"session,omitempty"` // its
		Namespace string `json:"namespace"`
		Pod       string `json:"pod"`
		Container string `json:"container"`
		Port      uint16 `json:"port"`
		Mode      string `json:"mode"`             // steal, mirror or, without a port, pause
		Filter    string `json:"filter,omitempty"` // in words
		Once      bool   `json:"once,omitempty"`   // one request, or without a filter connection, each time it is armed
		Since     string `json:"since"`            // RFC 3339
		Away      bool   `json:"away,omitempty"`   // his daemon has no connection: the pod answers
		Redirect  string `json:"redirect"`         // what brings the connections: sk_lookup, TPROXY, REDIRECT; packet for a mirror
	}
	// SessionRestartParams: the session's configuration is read again and what
	// differs holds for the launchers that come. Its target stays.
	SessionRestartParams struct {
		ID     string `json:"id"`
		Client Client `json:"client"`
	}
	// SessionEventsParams: without ID, of all sessions, also those to come.
	SessionEventsParams struct {
		ID      string `json:"id,omitempty"`
		Traffic bool   `json:"traffic,omitempty"` // also requests, connections and files
	}
	// SessionEvent is something that happened in a session. Those that say what
	// is the case are told first to a client that asks.
	SessionEvent struct {
		Session string `json:"session"`
		Time    string `json:"time"` // RFC 3339, with fractions
		Kind    string `json:"kind"` // an Event constant
		PID     int    `json:"pid,omitempty"`
		Port    uint16 `json:"port,omitempty"`
		Mirror  bool   `json:"mirror,omitempty"`
		Message string `json:"message,omitempty"`
		Lost    bool   `json:"lost,omitempty"` // of EventMessage: what it tells of is gone for good

		Request    *Request    `json:"request,omitempty"`
		Connection *Connection `json:"connection,omitempty"`
		Outgoing   *Outgoing   `json:"outgoing,omitempty"`
		File       *File       `json:"file,omitempty"`
		Serving    *Serving    `json:"serving,omitempty"`
	}
	SessionListResult struct {
		Sessions []Session `json:"sessions"`
	}

	// FileParams name a file of the session's target, by an absolute path there. It
	// is spelled as Name does, as are names and links' texts in the answers.
	FileParams struct {
		ID   string `json:"id"` // of a session
		Path string `json:"path"`
	}
	FileListResult struct {
		Entries   []FileEntry `json:"entries"`             // by name
		Truncated bool        `json:"truncated,omitempty"` // there are more
	}
	// FileEntry tells of a file.
	FileEntry struct {
		Name     string `json:"name"`     // without directory
		Kind     string `json:"kind"`     // a File constant
		Size     int64  `json:"size"`     // bytes
		Modified int64  `json:"modified"` // ms since 1970
		Mode     uint32 `json:"mode"`     // permission bits
		// Target is a symlink's text, and Leads the kind of what it leads to; "" where that is nothing.
		Target  string `json:"target"`
		Leads   string `json:"leads"`
		Symlink bool   `json:"symlink,omitempty"` // file/stat: the path is one, which was followed
	}
	// FileReadParams: Length 0 and what is over MaxFileRead are MaxFileRead.
	FileReadParams struct {
		ID     string `json:"id"`
		Path   string `json:"path"`
		Offset int64  `json:"offset"`
		Length int    `json:"length"`
	}
	FileReadResult struct {
		Data []byte `json:"data"` // base64; shorter than asked for at the end only
		EOF  bool   `json:"eof"`  // nothing follows
	}

	// Launch is what a launcher needs to put a debuggee into a session. It
	// holds the target's environment: it stays on the 0600 socket.
	Launch struct {
		Session  Session            `json:"session"`
		Hostname string             `json:"hostname"`
		Addrs    []string           `json:"addrs"` // the target's addresses
		Env      map[string]string  `json:"env"`   // to set over the client's
		Unset    []string           `json:"unset"` // to remove from the client's
		Policy   Policy             `json:"policy"`
		Start    SessionStartParams `json:"start"` // starts the session again where the daemon has ended
	}
	// Policy is the part of the configuration that the layer decides by; see
	// package layer/policy.
	Policy struct {
		FSMode      string            `json:"fsMode"` // local, localwithoverrides, read, write
		ReadWrite   []string          `json:"readWrite,omitempty"`
		ReadOnly    []string          `json:"readOnly,omitempty"`
		Local       []string          `json:"local,omitempty"`
		Places      []string          `json:"places,omitempty"` // directories that are Local as the debuggee's own are
		NotFound    []string          `json:"notFound,omitempty"`
		Mapping     map[string]string `json:"mapping,omitempty"`
		CacheTime   *int              `json:"cacheTime,omitempty"` // seconds that what is known of files is kept at most
		Mounts      []string          `json:"mounts,omitempty"`    // the target's volume mounts
		Steal       bool              `json:"steal"`
		Mirror      bool              `json:"mirror,omitempty"`      // incoming connections are copied; not with Steal
		Ports       []uint16          `json:"ports,omitempty"`       // if set, only these are stolen
		IgnorePorts []uint16          `json:"ignorePorts,omitempty"` // never stolen
		// Pairs of the port that the debuggee listens on, and the target's that is
		// taken for it, or the one that it really has here.
		PortMapping     [][2]uint16 `json:"portMapping,omitempty"`
		ListenPorts     [][2]uint16 `json:"listenPorts,omitempty"`
		IgnoreLocalhost bool        `json:"ignoreLocalhost,omitempty"` // listeners on loopback are Local
		OutgoingTCP     bool        `json:"outgoingTcp"`
		OutgoingUDP     bool        `json:"outgoingUdp"`
		DNS             bool        `json:"dns"`
		Hostname        bool        `json:"hostname"`
		OutgoingLocal   []string    `json:"outgoingLocal,omitempty"` // [proto://]host|ip|cidr[:port] that stay local
		SkipProcesses   []string    `json:"skipProcesses,omitempty"`
	}

	// DebugStartParams: Client is the directory and environment of Delve, and
	// so of the build that it does; the debuggee's is the target's over it.
	DebugStartParams struct {
		ID        string `json:"id"` // of a session
		Client    Client `json:"client"`
		Transport string `json:"transport,omitempty"` // unix (default) or tcp
		Progress  string `json:"progress,omitempty"`  // token of $/progress, "" for none
	}
	// Debug is one debug session. It is one DAP client's, and ends with it; it
	// holds its session like any launcher.
	Debug struct {
		Endpoint string `json:"endpoint"` // "unix:/run/user/1000/mirrord/dap-5f3a9c" or "127.0.0.1:40123"
		PID      int    `json:"pid"`      // of its launcher
	}

	// Progress of a request that carries a token.
	Progress struct {
		Token string        `json:"token"`
		Value ProgressValue `json:"value"`
	}
	ProgressValue struct {
		Kind    string   `json:"kind"` // begin, report, end
		Message string   `json:"message,omitempty"`
		Targets []Target `json:"targets,omitempty"` // of target/list: those that were found since the last report
	}
	CancelParams struct {
		ID any `json:"id"` // number or string, as in the request
	}

	// ShutdownParams: without Force a busy daemon refuses with CodeBuild's words.
	ShutdownParams struct {
		Force bool `json:"force,omitempty"`
	}
)

// An Error is a failure with its code and, where there is one, the way out.
type Error struct {
	Code int
	Msg  string
	Hint string
	// Errno is ErrorData's.
	Errno string
	Err   error // cause, not sent
}

func (e *Error) Error() string { return e.Msg }
func (e *Error) Unwrap() error { return e.Err }

// String tells a problem as file:line:column: key: message.
func (p Problem) String() string {
	at := ""
	if p.Line > 0 { // else it is about a flag, or which file is used
		at = fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	}
	if p.Key != "" {
		at += p.Key + ": "
	}
	return at + p.Message
}
