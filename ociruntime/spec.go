package ociruntime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tarnfs/tarn/container"
)

func writeSpec(_ context.Context, _ *runtime, args []string) (int, error) {
	var bundle string
	flags := newFlags("spec")
	flags.StringVar(&bundle, "bundle", ".", "`directory` to write config.json into")
	flags.StringVar(&bundle, "b", ".", "`directory` to write config.json into")
	if _, err := parse(flags, args, 0, 0); err != nil {
		return 1, err
	}
	text, err := json.MarshalIndent(exampleSpec(), "", "\t")
	if err != nil {
		return 1, err
	}
	f, err := os.OpenFile(filepath.Join(bundle, configFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return 1, fmt.Errorf("write a specification: %w", err)
	}
	defer f.Close()
	_, err = f.Write(append(text, '\n'))
	return 0, err
}

// exampleSpec is a shell in a read-only root, with little that it may do: runc's example.
func exampleSpec() *specs.Spec {
	const maxFiles = 1024
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	spec := container.DefaultSpec()
	spec.Root = &specs.Root{Path: "rootfs", Readonly: true}
	spec.Hostname = "tarn"
	spec.Process.Terminal = true
	spec.Process.Args = []string{"sh"}
	spec.Process.Env = []string{"PATH=" + container.DefaultPath, "TERM=xterm"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: maxFiles, Soft: maxFiles}}
	spec.Process.NoNewPrivileges = true
	return spec
}
