//go:build !race

package keeper

// environ is a keeper's environment: the debuggee's GODEBUG is not the keeper's. It does
// one thing at a time: with one of Go's processors it has half the threads to start and
// to end.
var environ = []string{"GOMAXPROCS=1"}
