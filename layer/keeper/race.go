//go:build race

package keeper

// environ is a keeper's environment, as without the race detector, which would have
// each sleep for a second at its end.
var environ = []string{"GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0"}
