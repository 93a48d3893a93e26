package seccomp

//go:generate go run ./internal/gen
//go:generate go run ./internal/gendefault

// Default gives the program of Docker's default profile (github.com/moby/profiles/seccomp) for a
// container with Docker's default capabilities on this machine, compiled ahead of time; nil on a
// machine that none was compiled for. The bytes must not be changed.
func Default() []byte {
	return defaultProgram
}
