package ide

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/wire anew")

const golden = "../../testdata/wire/ide.json"

// messages has parameters and result of every method.
func messages() map[string]any {
	client := Client{Dir: "/home/dev/shop", Env: []string{"HOME=/home/dev"}, Local: []string{"/usr/share/code"}}
	overrides := Overrides{Target: "deployment/web", Namespace: "shop", Context: "staging", Kubeconfig: "/home/dev/kubeconfig", Steal: true, FSMode: "read"}
	session := Session{
		ID: "5f3a9c21", Target: "pod/web-1/container/web in shop", Pod: "web-1", Namespace: "shop", Context: "staging",
		Started: "2026-11-23T12:00:00Z", Launchers: 1, Stopped: 1, Ports: []uint16{8080}, Steals: true, Warnings: []string{"mirrord.json:3:5: operator: not served yet"},
		Replicas: []string{"web-1", "web-2"}, Filter: "header ^x-user: alice$",
	}
	text := "{\n  \"target\": \"deployment/web\"\n}\n"
	return map[string]any{
		MethodInitialize:                   InitializeParams{Version: 1, Build: "0123456789ab", Client: "vscode 1.2.3"},
		MethodInitialize + " result":       InitializeResult{Version: 1, Build: "0123456789ab", PID: 4711, Layer: "/run/user/1000/mirrord/layer.sock", Busy: 1},
		MethodTargetList:                   TargetListParams{Client: client, ConfigFile: ".mirrord/mirrord.json", Overrides: overrides, Progress: "p1"},
		MethodTargetList + " result":       TargetListResult{Namespace: "shop", Targets: []Target{{Path: "deployment/web", Containers: []string{"web"}, Available: true}, {Path: "pod/job-1", Reason: "it has ended"}}, Hidden: []string{"statefulsets"}},
		MethodTargetContexts:               TargetListParams{Client: client},
		MethodTargetContexts + " result":   ContextsResult{Current: "staging", Contexts: []string{"production", "staging"}},
		MethodTargetNamespaces:             TargetListParams{Client: client, Overrides: Overrides{Context: "staging"}},
		MethodTargetNamespaces + " result": NamespacesResult{Current: "shop", Namespaces: []string{"default", "shop"}},
		MethodConfigVerify:                 ConfigVerifyParams{Client: client, ConfigFile: ".mirrord/mirrord.json", Text: &text, Overrides: Overrides{Namespace: "shop"}},
		MethodConfigVerify + " result":     ConfigVerifyResult{Problems: []Problem{{File: "mirrord.json", Line: 2, Column: 14, Key: "feature.fs.mode", Message: `"reed" is none of local, localwithoverrides, read, write`}}, ConfigFile: "/home/dev/shop/.mirrord/mirrord.json", Target: "deployment/web", Namespace: "shop", Incoming: "steal"},
		MethodConfigDefault:                Empty{},
		MethodConfigDefault + " result":    ConfigDefaultResult{Name: "mirrord.yaml", Text: "target: deployment/web\n"},
		MethodConfigExplain:                ConfigExplainParams{Client: client, ConfigFile: ".mirrord/mirrord.json", Overrides: Overrides{FSMode: "read"}, Kind: ExplainPath, Subject: "/srv/data"},
		MethodConfigExplain + " result": ConfigExplainResult{
			Kind: ExplainPath, Subject: "/srv/data", Verdict: "remote", Rule: `fs.read_only "^/data"`, Setting: "feature.fs.read_only", From: "mirrord.json:4:20",
			Path: "/data", MappedBy: "mirrord.json:5:16", Notes: []string{"volumes mounted by the target are not known: name it with --target"},
		},
		MethodSessionStart:             SessionStartParams{ID: "5f3a9c21", Started: "2026-11-23T12:00:00Z", Client: client, Overrides: overrides, Pod: "web-1", Tied: true, Progress: "p1"},
		MethodSessionStart + " result": session,
		MethodSessionLaunch:            SessionID{ID: "5f3a9c21"},
		MethodSessionLaunch + " result": Launch{
			Session: session, Hostname: "web-1", Addrs: []string{"10.244.0.7"}, Env: map[string]string{"SHOP_GREETING": "hello"}, Unset: []string{"AWS_PROFILE"},
			Policy: Policy{FSMode: "read", Mounts: []string{"/etc/shop"}, Steal: true, OutgoingTCP: true, OutgoingUDP: true, DNS: true, Hostname: true, SkipProcesses: []string{"go"}},
		},
		MethodSessionStop:               SessionID{ID: "5f3a9c21"},
		MethodSessionStop + " result":   Empty{},
		MethodRestart:                   SessionRestartParams{ID: "5f3a9c21", Client: client},
		MethodRestart + " result":       session,
		MethodSessionEvents:             SessionEventsParams{ID: "5f3a9c21", Traffic: true},
		MethodSessionEvents + " result": Empty{},
		MethodSessionEvent:              SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventStopped, PID: 4712},
		MethodSessionList:               Empty{},
		MethodSessionList + " result":   SessionListResult{Sessions: []Session{session}},
		MethodSessionHolders:            TargetListParams{Client: client, Overrides: Overrides{Namespace: "shop"}},
		MethodSessionHolders + " result": HoldersResult{
			Unasked: 1,
			Holders: []Holder{{
				User: "alice@laptop", Session: "5f3a9c21", Namespace: "shop", Pod: "web-1", Container: "web", Port: 8080, Mode: "steal",
				Filter: "header ^x-user: alice$", Since: "2026-11-23T12:00:00Z", Redirect: "sk_lookup",
			}},
			Problems: []string{"asking agent mirrord-agent-web-2 in namespace shop: starting"},
		},
		MethodSessionServing:                   ServingParams{ID: "5f3a9c21", Thread: 35, Peer: "10.1.2.3:4711", Stream: 3},
		MethodSessionArm:                       SessionID{ID: "5f3a9c21"},
		MethodSessionArm + " result":           Empty{},
		MethodSessionEvent + " " + EventCaught: SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventCaught, Port: 8080},
		MethodSessionEvent + " " + EventTaken: SessionEvent{
			Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventTaken, Port: 8080, Message: "header ^x-user: alice$",
		},
		MethodSessionServing + " result": ServingResult{
			Serving: Serving{Thread: 35, ID: 7, Method: "GET", Path: "/cart?id=3", Peer: "10.1.2.3:4711", Pod: "shop/client"},
			Headers: [][2]string{{"Authorization", "…"}},
		},
		MethodFileList: FileParams{ID: "5f3a9c21", Path: "/etc/shop"},
		MethodFileList + " result": FileListResult{Entries: []FileEntry{
			{Name: "..data", Kind: FileSymlink, Size: 31, Modified: 1763899200000, Mode: 0o777, Target: "..2026_11_23_12_00_00.1763899200", Leads: FileDirectory},
			{Name: Name("caf\xe9"), Kind: FileRegular, Size: 4, Modified: 1763899200500, Mode: 0o644},
			{Name: "config.yaml", Kind: FileRegular, Size: 14, Modified: 1763899200500, Mode: 0o644},
		}},
		MethodFileStat:               FileParams{ID: "5f3a9c21", Path: "/etc/shop/config.yaml"},
		MethodFileStat + " result":   FileEntry{Name: "config.yaml", Kind: FileRegular, Size: 14, Modified: 1763899200500, Mode: 0o644, Target: "..data/config.yaml", Symlink: true},
		MethodFileRead:               FileReadParams{ID: "5f3a9c21", Path: "/etc/shop/config.yaml", Length: 65536},
		MethodFileRead + " result":   FileReadResult{Data: []byte("currency: EUR\n"), EOF: true},
		MethodDebugStart:             DebugStartParams{ID: "5f3a9c21", Client: client, Transport: "unix", Progress: "p2"},
		MethodDebugStart + " result": Debug{Endpoint: "unix:/run/user/1000/mirrord/dap-5f3a9c", PID: 4712},
		MethodShutdown:               ShutdownParams{Force: true},
		MethodShutdown + " result":   Empty{},
		MethodProgress:               Progress{Token: "p1", Value: ProgressValue{Kind: "report", Message: "starting the agent"}},
		MethodProgress + " targets":  Progress{Token: "p1", Value: ProgressValue{Kind: "report", Targets: []Target{{Path: "deployment/web", Containers: []string{"web"}, Available: true}}}},
		MethodCancel:                 CancelParams{ID: 7},
		"error data of a file":       ErrorData{Errno: "ENOENT"},
		"error data":                 ErrorData{Hint: "check with `kubectl auth can-i create jobs.batch -n shop`"},
		MethodSessionEvent + " " + EventRequest: SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventRequest, Request: &Request{
			ID: 7, Asked: &Asked{Port: 8080, Peer: "10.1.2.3:4711", Method: "GET", Path: "/items?all", Host: "web", Proto: "HTTP/1.1"},
		}},
		MethodSessionEvent + " " + EventResponse: SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.6Z", Kind: EventResponse, Request: &Request{
			ID: 7, Answered: &Answered{MS: 100.5, RequestBytes: 0, ResponseBytes: 512, Error: "the connection was reset"},
		}},
		MethodSessionEvent + " " + EventConnection: SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventConnection, Connection: &Connection{
			ID: 8, Port: 6379, Mirror: true, Peer: "10.1.2.3:4711", BytesIn: 14, MS: 0.5, Open: true,
		}},
		MethodSessionEvent + " " + EventOutgoing: SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventOutgoing, Outgoing: &Outgoing{
			ID: 9, Proto: "tcp", Address: "10.96.0.12:80", Name: "inventory.shop.svc.cluster.local", PID: 4712, MS: 1.5, Error: "ECONNREFUSED", Ended: true,
		}},
		MethodSessionEvent + " " + EventFile: SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventFile, File: &File{
			Path: "/etc/shop/config.yaml", Op: "open", Bytes: 120, PID: 4712, Count: 3,
		}},
		MethodSessionEvent + " " + EventMessage: SessionEvent{Session: "5f3a9c21", Time: "2026-11-23T12:00:00.5Z", Kind: EventMessage, Message: "the agent is gone (it ended)", Lost: true},
		MethodSessionRequest:                    RequestParams{ID: "5f3a9c21", Request: 7, Reveal: true},
		MethodSessionRequest + " result": RequestResult{
			Request: RequestMessage{
				Method: "POST", Path: "/items", Host: "web", Proto: "HTTP/1.1", Headers: [][2]string{{"Content-Length", "5"}, {"Authorization", "…"}}, Body: []byte("hello"),
			},
			Response: ResponseMessage{Status: 201, Headers: [][2]string{{"Content-Length", "0"}}, Trailers: [][2]string{{"X-Sum", "42"}}, Body: []byte{}},
			Peer:     "10.1.2.3:4711", Port: 8080, Started: "2026-11-23T12:00:00.5Z", MS: 12.5, Done: true,
		},
	}
}

func TestGoldenMessages(t *testing.T) {
	got, err := json.MarshalIndent(messages(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("messages differ from %s (go test ./protocol/ide -update writes it):\n%s", golden, cmp.Diff(string(want), string(got)))
	}
}
