package mirrord_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"mirrord/protocol/socket/tlstest"
)

// A pod that serves HTTPS has its requests stolen one by one: its client sees the
// pod's certificate and no other, in HTTP/1 and HTTP/2, on one connection.
func TestFiltersInTLS(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	theirs, certFile, keyFile := tlstest.Certificate(t, t.TempDir(), "shop")
	own, ownCert, ownKey := tlstest.Certificate(t, t.TempDir(), "own")
	kubectl(t, "create", "secret", "tls", "web-tls", "-n", namespace, "--cert="+certFile, "--key="+keyFile)
	program := streamsPod(t, namespace, `args: [pod, /tls/tls.crt, /tls/tls.key]
    volumeMounts: [{name: tls, mountPath: /tls}]
  volumes: [{name: tls, secret: {secretName: web-tls}}]`)
	address := podIP(t, namespace, "web") + ":8443"
	ownDaemon(t)

	// visit asks on one connection, and returns who answered.
	type visitor func(user string) string
	visit := func(name string, trusted tls.Certificate, protocols ...string) visitor {
		t.Helper()
		config := &tls.Config{ServerName: name, NextProtos: protocols, RootCAs: x509.NewCertPool()}
		config.RootCAs.AddCert(trusted.Leaf)
		raw := dialFrom(t, namespace, "client", address)
		_ = raw.SetDeadline(time.Now().Add(patience))
		c := tls.Client(raw, config)
		if err := c.Handshake(); err != nil {
			t.Fatalf("TLS with %s: %v", name, err)
		}
		if got := c.ConnectionState().NegotiatedProtocol; got != protocols[0] {
			t.Errorf("%v agreed to %q", protocols, got)
		}
		client := over(t, c)
		if protocols[0] == "h2" {
			tr := client.Transport.(*http.Transport)
			tr.Protocols = new(http.Protocols) // the TLS is made already
			tr.Protocols.SetUnencryptedHTTP2(true)
		}
		return func(user string) string {
			t.Helper()
			r, err := http.NewRequest("POST", "http://shop/"+user, strings.NewReader("words"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-User", user)
			a, err := client.Do(r)
			if err != nil {
				t.Fatalf("as %q: %v", user, err)
			}
			defer a.Body.Close()
			b, err := io.ReadAll(a.Body)
			if err != nil {
				t.Fatalf("as %q: %v", user, err)
			}
			if name := a.Header.Get("X-Name"); name != "" {
				return name
			}
			return string(b)
		}
	}
	run := func(config string, command ...string) *debuggee {
		t.Helper()
		path := file(t, "mirrord.json", config)
		return started(t, mirrord(t, append(onTarget(namespace, "-f", path, "--"), command...)...), nil)
	}
	end := func(d *debuggee) {
		d.signal(syscall.SIGTERM)
		d.wait()
	}
	expect := func(v visitor, user, want string) {
		t.Helper()
		if got := v(user); got != want {
			t.Errorf("%q was answered by %q, not %q", user, got, want)
		}
	}

	t.Run("by path, as TLS", func(t *testing.T) {
		alice := run(filterOf("alice", fmt.Sprintf(`, "tls": {"cert": "/tls/tls.crt", "key": "/tls/tls.key"},
			"tls_delivery": {"server_cert": %q}`, ownCert)), program, "alice's", ownCert, ownKey)
		alice.line("listening")
		for _, protocol := range []string{"http/1.1", "h2"} {
			v := visit("shop", theirs, protocol)
			for range 2 {
				expect(v, "alice", "alice's")
				alice.line("heard /alice")
				expect(v, "", "pod")
			}
		}
		end(alice)
		expect(visit("shop", theirs, "h2"), "alice", "pod")
	})
	plain := strings.Replace(naming("plain"), "8080", "8443", 1)
	plain = strings.Replace(plain, "do_GET", "do_POST", 1)
	t.Run("by secret, in the clear", func(t *testing.T) {
		alice := run(filterOf("alice", `, "tls": {"secret": "web-tls"}, "tls_delivery": {"protocol": "tcp"}`), "python3", "-c", plain)
		alice.line("listening")
		v := visit("shop", theirs, "http/1.1")
		expect(v, "alice", "plain")
		expect(v, "bob", "pod")
		end(alice)
	})
	t.Run("to one without TLS", func(t *testing.T) {
		alice := run(filterOf("alice", `, "tls": {"secret": "web-tls"}`), "python3", "-c", plain)
		alice.line("listening")
		expect(visit("shop", theirs, "http/1.1"), "alice", "pod")
		end(alice)
		if said := alice.errors(); !strings.Contains(said, "tls_delivery.protocol tcp") {
			t.Errorf("the user was told %q", said)
		}
	})
	t.Run("by name, as a whole", func(t *testing.T) {
		alice := run(`{"feature": {"network": {"incoming": {"mode": "steal", "http_filter": {"server_name_filter": "^own$"}}}}}`,
			program, "alice's", ownCert, ownKey)
		alice.line("listening")
		expect(visit("own", own, "h2"), "", "alice's")
		expect(visit("shop", theirs, "h2"), "alice", "pod")
		end(alice)
	})
	for want, config := range map[string]string{
		"/tls/none: no such file":                            `{"cert": "/tls/none", "key": "/tls/tls.key"}`,
		"failed to find any PEM data":                        `{"cert": "/etc/hosts", "key": "/tls/tls.key"}`,
		`secrets "none" not found`:                           `{"secret": "none"}`,
		"feature.network.incoming.tls.cert: needs feature.n": `{"cert": "/tls/tls.crt"}`,
	} {
		d := run(filterOf("alice", `, "tls": `+config), program, "alice's")
		d.wait()
		if said := d.errors(); !strings.Contains(said, want) {
			t.Errorf("%s: %q, not %q", config, said, want)
		}
	}
}
