package httpfilter

import (
	"strconv"
	"strings"

	"mirrord/protocol/filter"
)

// path is a request's target as a filter sees it: what is said to a proxy names the
// scheme and the server, too.
func path(target string) string {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || strings.ContainsAny(scheme, "/?") {
		return target
	}
	if i := strings.IndexAny(rest, "/?"); i < 0 {
		return "/"
	} else if rest = rest[i:]; rest[0] == '?' {
		return "/" + rest
	}
	return rest
}

// hopeless tells whether a body is not worth waiting for: it is too large, no JSON, or
// its client waits for an answer itself.
func hopeless(r *filter.Request) bool {
	for _, f := range r.Header {
		switch {
		case strings.EqualFold(f.Name, "content-length"):
			if n, err := strconv.ParseUint(f.Value, 10, 64); err != nil || n > maxBody {
				return true
			}
		case strings.EqualFold(f.Name, "content-type"):
			const grpc = "application/grpc" // and what it is with: gRPC-Web, too
			if len(f.Value) >= len(grpc) && strings.EqualFold(f.Value[:len(grpc)], grpc) {
				return true
			}
		case strings.EqualFold(f.Name, "expect"):
			return true
		}
	}
	return false
}
