package traffic

import "testing"

func TestSecretsAreMasked(t *testing.T) {
	for name, want := range map[string]bool{
		"authorization": true, "Proxy-Authorization": true, "Cookie": true, "Set-Cookie": true, "X-Api-Key": true, "apikey": true,
		"X-Auth-Token": true, "X-Amz-Security-Token": true, "X-Forwarded-Access-Token": true, "X-CSRF-Token": true, "X-Session-Id": true,
		"Accept": false, "Baggage": false, "traceparent": false, "X-User": false, "WWW-Authenticate": false, "Keep-Alive": false,
	} {
		got := shown([][2]string{{name, "value"}}, false)
		if (got[0][1] == masked) != want {
			t.Errorf("%s is shown as %q", name, got[0][1])
		}
		if got := shown([][2]string{{name, "value"}}, true); got[0][1] != "value" {
			t.Errorf("%s is shown as %q to who insists", name, got[0][1])
		}
	}
	for path, want := range map[string]string{
		"/a": "/a", "/token=x": "/token=x", "/a?": "/a?", "/a?b=c&access_token=x%20y&d": "/a?b=c&access_token=…&d",
		"/a?X-Amz-Signature=1&sessionid=2&token": "/a?X-Amz-Signature=…&sessionid=…&token",
	} {
		if got := shownPath(path, false); got != want {
			t.Errorf("%s is shown as %s", path, got)
		}
		if got := shownPath(path, true); got != path {
			t.Errorf("%s is shown as %s to who insists", path, got)
		}
	}
}
