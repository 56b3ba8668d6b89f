package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// A Kind is what a client decides by: its exit code, or what an IDE offers.
type Kind string

const (
	NoKubeconfig     Kind = "no-kubeconfig"
	BadConfig        Kind = "bad-config" // a kubeconfig or an agent setting is wrong
	UnknownContext   Kind = "unknown-context"
	Unreachable      Kind = "unreachable"
	Unauthorized     Kind = "unauthorized" // expired or unknown credentials
	Forbidden        Kind = "forbidden"
	UnknownNamespace Kind = "unknown-namespace"
	BadTarget        Kind = "bad-target" // the path itself is malformed
	UnknownTarget    Kind = "unknown-target"
	UnknownContainer Kind = "unknown-container"
	NotRunning       Kind = "not-running"
	AgentFailed      Kind = "agent-failed"
	Refused          Kind = "refused" // the API server said no for another reason
)

// An Error is a failure in the user's words.
type Error struct {
	Kind Kind
	Msg  string // what was tried, on what
	Err  error  // why; may be nil
	Hint string // what to do next; may be ""
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// IsKind says whether err is, or wraps, an *Error of kind k.
func IsKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

// ErrFinal marks an error of StartAgent's try that another try cannot mend.
var ErrFinal = errors.New("no use in trying again")

// explain turns the outcome of a request into words. ctx is the caller's, so
// that its end is not mistaken for the server's silence.
func (c *Cluster) explain(ctx context.Context, r request, err error) error {
	var told *Error
	switch {
	case err == nil || errors.As(err, &told):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{
			Kind: Unreachable,
			Msg:  "reaching the cluster at " + c.config.Host,
			Err:  fmt.Errorf("no answer within %v", requestTimeout),
			Hint: c.checkServer(),
		}
	case apierrors.IsUnauthorized(err):
		return &Error{
			Kind: Unauthorized,
			Msg:  "logging in to the cluster at " + c.config.Host,
			Err:  errors.New("the server does not accept the credentials (expired?)"),
			Hint: "log in again, then check with `kubectl auth whoami" + c.flags() + "`",
		}
	case isRBAC(err):
		return &Error{Kind: Forbidden, Msg: r.String(), Err: err, Hint: "check with `" + c.canI(r) + "`"}
	case isStatus(err):
		return &Error{Kind: Refused, Msg: r.String(), Err: err}
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err // its text repeats the address
	}
	if strings.HasPrefix(err.Error(), "getting credentials: ") { // of the kubeconfig's plugin
		return &Error{Kind: Unauthorized, Msg: "logging in to the cluster at " + c.config.Host, Err: err, Hint: c.checkServer()}
	}
	hint := c.checkServer()
	if strings.Contains(err.Error(), "x509: ") {
		hint = "the setting accept_invalid_certificates skips this check"
	}
	return &Error{Kind: Unreachable, Msg: "reaching the cluster at " + c.config.Host, Err: err, Hint: hint}
}

func (c *Cluster) checkServer() string {
	return "check with `kubectl version" + c.flags() + "`"
}

// flags have kubectl ask the same cluster.
func (c *Cluster) flags() (s string) {
	if c.context != "" {
		s = " --context " + c.context
	}
	if c.kubeconfig != "" {
		s += " --kubeconfig " + c.kubeconfig
	}
	return s
}

// canI is the line that shows the missing right.
func (c *Cluster) canI(r request) string {
	s := "kubectl auth can-i " + r.verb + " " + r.kind.resource
	if _, group, ok := strings.Cut(r.kind.api, "apis/"); ok {
		group, _, _ = strings.Cut(group, "/")
		s += "." + group
	}
	if r.sub != "" {
		s += " --subresource=" + r.sub
	}
	if r.namespace != "" {
		s += " -n " + r.namespace
	}
	return s + c.flags()
}

func isStatus(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// isRBAC tells a missing right from the other causes of status 403, such as an
// admission plugin's refusal.
func isRBAC(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot ")
}
