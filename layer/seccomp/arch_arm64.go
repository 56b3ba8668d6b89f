package seccomp

// Host is the architecture we were built for.
var Host = ARM64
