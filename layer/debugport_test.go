package layer

import (
	"slices"
	"strings"
	"testing"
)

func TestDebugPorts(t *testing.T) {
	const java, node, python = "/usr/lib/jvm/java-17/bin/java", "/usr/bin/node", "/usr/bin/python3.11"
	for _, tt := range []struct {
		exe, line string
		env       []string
		kind      debugger
		ports     []uint16
	}{
		{node, "node server.js", nil, inspector, []uint16{9229}},
		{node, "node --inspect server.js", nil, inspector, []uint16{9229}},
		{node, "node --inspect=9300 server.js", nil, inspector, []uint16{9229, 9300}},
		{node, "node --inspect-brk=0.0.0.0:9300 server.js", nil, inspector, []uint16{9229, 9300}},
		{node, "node --inspect_brk=[::1]:9300 server.js", nil, inspector, []uint16{9229, 9300}},
		{node, "node --inspect-wait=localhost:9300 server.js", nil, inspector, []uint16{9229, 9300}},
		{node, "node --inspect=localhost server.js", nil, inspector, []uint16{9229}},
		{node, "node --inspect=0 server.js", nil, inspector, []uint16{9229}},
		{node, "node --inspect=99999 server.js", nil, inspector, []uint16{9229}},
		{node, "node --inspect --inspect-port=9230 worker.js", nil, inspector, []uint16{9229, 9230}}, // of module cluster
		{node, "node --inspect-port 9230 server.js", nil, inspector, []uint16{9229, 9230}},
		{node, "node --debug-port", nil, inspector, []uint16{9229}},
		{"/opt/node-20/bin/node20", "npm start", []string{"NODE_OPTIONS=--require /a/b.js --inspect=9300"}, inspector, []uint16{9229, 9300}},
		{node, "node server.js", []string{`NODE_OPTIONS="--inspect-brk=0.0.0.0:9300" --no-warnings`}, inspector, []uint16{9229, 9300}},
		{node, "node server.js", []string{"JAVA_TOOL_OPTIONS=-agentlib:jdwp=server=y,address=5005"}, inspector, []uint16{9229}},
		{"/srv/web", "./web --inspect=9300", []string{"NODE_OPTIONS=--inspect=9300"}, noDebugger, nil},
		{"/bin/dash", "sh -c node --inspect=9300 server.js", nil, noDebugger, nil},

		{python, "python -m debugpy --listen 5678 app.py", nil, debugpy, []uint16{5678}},
		{python, "python -m debugpy --listen 0.0.0.0:5678 --wait-for-client app.py --listen 8080", nil, debugpy, []uint16{5678}},
		{python, "python -Xfrozen_modules=off /p/debugpy/__main__.py --listen 5678 -m web --port 8080", nil, debugpy, []uint16{5678}},
		{python, "python /p/debugpy/adapter --for-server 41413 --host 127.0.0.1 --port 5678 --server-access-token fe5f", nil, debugpy, []uint16{5678}},
		{python, "python -m debugpy.adapter --host 0.0.0.0 --port 5678", nil, debugpy, []uint16{5678}},
		{python, "python -m debugpy --connect 5678 app.py --port 8080", nil, noDebugger, nil},
		{python, "python -m web --listen 8080", nil, noDebugger, nil},
		{python, "python -m debugpy --listen", nil, noDebugger, nil},
		{python, "python -X frozen_modules=off -W error -m debugpy --listen 5678 app.py", nil, debugpy, []uint16{5678}},
		{python, "python app.py -m debugpy --listen 8080", nil, noDebugger, nil},
		{python, "python -m", nil, noDebugger, nil},

		{java, "java -agentlib:jdwp=transport=dt_socket,server=y,address=*:5005 -jar web.jar", nil, jdwp, []uint16{5005}},
		{java, "java -agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=5005 -jar web.jar", nil, jdwp, []uint16{5005}},
		{java, "java -agentlib:jdwp=transport=dt_socket,address=[::1]:5005,server=y Web", nil, jdwp, []uint16{5005}},
		{java, "java -Xdebug -Xrunjdwp:transport=dt_socket,server=y,address=localhost:5005 Web", nil, jdwp, []uint16{5005}},
		{java, "java -agentpath:/jdk/lib/libjdwp.so=transport=dt_socket,server=y,address=5005 Web", nil, jdwp, []uint16{5005}},
		{java, "java Web", []string{"JAVA_TOOL_OPTIONS=-Xmx1g -agentlib:jdwp=transport=dt_socket,server=y,address=*:5005"}, jdwp, []uint16{5005}},
		{java, "java Web", []string{"JDK_JAVA_OPTIONS='-agentlib:jdwp=transport=dt_socket,server=y,address=*:5005'"}, jdwp, []uint16{5005}},
		{"/opt/web/bin/web", "web", []string{"_JAVA_OPTIONS=-agentlib:jdwp=transport=dt_socket,server=y,address=*:5005"}, jdwp, []uint16{5005}},
		{java, "java -agentlib:jdwp=transport=dt_socket,server=y,address=0 Web", nil, noDebugger, nil},
		{java, "java -agentlib:jdwp=transport=dt_socket,server=y Web", nil, noDebugger, nil},
		{java, "java -agentlib:jdwp=transport=dt_socket,server=n,address=localhost:5005 Web", nil, noDebugger, nil},
		{java, "java -agentlib:jdwp=transport=dt_socket,address=localhost:5005 Web", nil, noDebugger, nil},
		{java, "java -agentlib:hprof=server=y,address=5005 Web", nil, noDebugger, nil},
		{java, "java Web server=y,address=8080", []string{"OPTIONS=-agentlib:jdwp=server=y,address=8080"}, noDebugger, nil},

		{"/root/go/bin/dlv", "dlv exec --headless --listen=:2345 ./web", nil, aDebugger, nil},
		{"/usr/bin/gdbserver", "gdbserver :2345 ./web", nil, aDebugger, nil},
		{"/srv/web", "", nil, noDebugger, nil},
	} {
		kind, ports := debugPorts(tt.exe, strings.Fields(tt.line), func() []string { return tt.env })
		if kind != tt.kind || !slices.Equal(ports, tt.ports) {
			t.Errorf("%s, %q: kind %d, ports %d, want %d, %d", tt.line, tt.env, kind, ports, tt.kind, tt.ports)
		}
	}
}
