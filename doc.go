// Package mirrord is the tour of this module. mirrord runs a process on the
// developer's machine in the context of a pod: it sees the pod's environment,
// files, names and network, and receives the pod's traffic.
//
// # Words
//
// target: the pod and container impersonated. debuggee: the user's process and
// its children. daemon, launcher, keeper, layer, agent: our parts. session: one
// debuggee bound to one target. tunnel: the two multiplexed connections of
// daemon and agent; stream: one operation in it. outgoing, incoming: as the target
// sees it. steal: take an incoming connection. redirect: the kernel object that
// brings a port's connections to the agent. hook: one intercepted call of the
// debuggee. verdict: Local or Remote.
//
// # Parts
//
//		IDE, terminal ── JSON-RPC ──▶ daemon ══ tunnel ══ port-forward ══▶ agent
//		                              ▲   │                               in the target's
//		            hooked calls (ABI)│   │loopback endpoints, files      namespaces
//		                              │   ▼
//		                  launcher ── layer ── keeper ── debuggee
//
//	  - daemon/mirrord: the binary that is run, command line, launcher and keeper.
//	    daemon/main.go: mirrord-full beside it, which is the daemon and its file
//	    server, too. daemon/early: the keeper does not wait for the rest.
//	  - daemon/cli: the commands. daemon/rpc: the daemon's life and its requests.
//	    daemon/config: mirrord.json. daemon/session: one debuggee, one target.
//	  - daemon/cluster: Kubernetes. daemon/tunnel: streams to the agent.
//	    daemon/forward: loopback endpoints. daemon/files: the target's files as FUSE nodes;
//	    daemon/files/browse: as a directory for people.
//	    daemon/traffic: what goes through a session.
//	    daemon/debug: Delve. daemon/debug/endpoint: where editors meet it, and are
//	    told which request a goroutine that stops serves.
//	  - extensions/vscode: a client of the daemon, and all that VS Code needs: status
//	    item, list of targets, launches of each debug type, sidebar.
//	  - layer: what is hooked and how it is answered. layer/policy: Local or
//	    Remote, and why. layer/seccomp: the program and its notifications.
//	    layer/launch: the launcher. layer/keeper: its keeper.
//	  - agent: what runs beside the target. agent/serve: its streams.
//	    agent/target: finding and entering the target. agent/files, agent/outgoing,
//	    agent/incoming: what it does there. agent/httpfilter: whose the requests of a
//	    shared port are. agent/pause: the target stands still.
//	  - protocol: daemon and agent (PROTOCOL.md); protocol/filter: which requests a
//	    user wants; protocol/link: a connection that survives; protocol/ide: clients
//	    and daemon (IDE.md); protocol/layer:
//	    launchers and daemon.
//
// # mirrord exec --target deployment/web -- ./web
//
//  1. daemon/cli/exec.go looks the command up and dials the daemon;
//     daemon/rpc/client.go starts one where none of this build runs, start.go
//     and run.go between them see to it that it is the only one.
//  2. session/start (daemon/rpc/session.go) reaches daemon/session/manager.go:
//     daemon/config/load.go reads the file, daemon/cluster finds the target and
//     starts or finds an agent on its node, daemon/tunnel opens a tunnel to it.
//  3. Its answer, which session/launch gives to others, holds the environment
//     (daemon/config/environ.go), the policy (daemon/config/policy.go) and names.
//  4. layer/launch/launch.go starts the keeper (layer/keeper), which installs the
//     seccomp program and starts the debuggee; the launcher answers its calls.
//     With `mirrord dlv` that is Delve (daemon/debug), which starts the debuggee:
//     layer/debugger.go knows the two, and what else Delve starts, apart. So it
//     does for `mirrord exec --debugger -- gdb`.
//  5. The debuggee ends, the launcher ends with its exit code, the connection to
//     the daemon closes, the session is undone.
//
// # A call
//
// The kernel stops the debuggee in open or connect and asks the launcher
// (layer/seccomp). layer/policy gives the verdict. Local: the call goes on as if
// nobody had asked. Remote: the launcher asks the daemon over a seqpacket socket
// (protocol/layer, daemon/session/launcher.go), and the daemon the agent, each
// operation in a stream of its own (protocol/message.go, agent/serve). The
// debuggee gets a real descriptor; its reads and writes are never trapped.
//
// What the agent answered about a file the launcher keeps (layer/cache.go)
// until the agent says that it has changed (agent/files/lease.go). What is open
// for writing is one node for all who have it open (daemon/session/shared.go);
// what is done to it goes to the agent in order, in a stream of its own
// (daemon/tunnel/write.go, agent/files/write.go). A program's
// way through a directory is guessed, and answered ahead (agent/files/ahead.go),
// and its way through a tree (agent/files/habit.go). With a file's attributes comes
// what programs go on to ask: its extended ones, a link's text, whether it may be
// read (agent/files/beside.go, layer/beside.go).
//
// Who asks is told what goes through a session (daemon/traffic): copies of what
// the relays move are looked at elsewhere, and made only then.
//
// Where the policy lets the debuggee write, the target's user does (agent/files/acting.go):
// by name, one request each (layer/byname.go, agent/files/change.go); or in an open
// file, which is one node for all who have it open (daemon/session/sharing.go,
// daemon/files/shared.go), so that they see what each other write. A person who
// looks at the files (daemon/cli/files.go, daemon/files/browse, layer/tree.go) is one
// of them.
//
// A debuggee that its debugger has stopped, or is replacing by the next, is
// waited for: daemon/session/debuggee.go, listen.go.
//
// A connect that does not block is answered after 250 ms at most, if need be
// with an endpoint that completes when the target has (daemon/forward/pending.go).
//
// # Click, pick, debug
//
//  1. extensions/vscode/src/debug.ts gets each launch that VS Code is about to
//     start, when the debug type's own extension has completed it.
//  2. src/starter.ts asks the daemon (src/daemon.ts) what the configuration
//     chooses, src/picker.ts the user for a target if it chooses none, and
//     src/sessions.ts the daemon for a session, which is tied to the window.
//  3. src/launch.ts has the debugger, or the program, started by mirrord with
//     the session's id: `dlv`, `mirrord exec`, or a file that stands for them.
//  4. From there on it is as above. session/events tells what happens, which
//     src/traffic.ts keeps for src/tree.ts and src/status.ts.
//
// # Undo
//
// Whoever does a thing owns its undoing, and the undoing survives a kill -9 of
// the owner: stolen ports are kernel objects that die with the agent
// (agent/incoming), a paused target is traced by a thread of the agent and goes on
// without it (agent/pause), the debuggee dies with its launcher or keeper
// (layer/launch, layer/keeper), the file server's mount with its last descriptor
// (daemon/files), one for people by a process beside it (daemon/files/browse).
//
// A lost connection is made again, and loses nothing (protocol/link); a daemon
// that is gone is started again by the launchers (layer/restart.go); a
// restarted container is followed (agent/target/follow.go), and so are the pods of
// a workload (daemon/session/replicas.go).
//
// # Imports
//
// protocol imports nothing of ours; daemon and agent never import each other;
// layer imports protocol only; k8s.io is daemon/cluster's alone, Delve
// daemon/debug's, ebpf and netlink the agent's. imports_test.go holds it.
package mirrord
