// Package conformance has only tests: what suites of others say of a server must
// be the same through a filtered port as it is directly, whether its requests pass
// to the pod or are stolen. It is a module of its own, as nothing else needs what
// these suites need.
package conformance
