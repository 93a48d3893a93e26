package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/image"
)

// registryFlags are shared by all commands that talk to a registry.
type registryFlags struct {
	tlsVerify bool
	certDir   string
}

func (r *registryFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&r.tlsVerify, "tls-verify", true, "require TLS with a certificate that can be verified; registries on this machine may do without")
	flags.StringVar(&r.certDir, "cert-dir", "", "`directory` with *.crt, *.cert and *.key files (default: /etc/containers/certs.d/HOST, /etc/docker/certs.d/HOST)")
}

func (r *registryFlags) options(a *app) engine.RegistryOptions {
	return engine.RegistryOptions{SkipTLSVerify: !r.tlsVerify, CertDir: r.certDir, UserAgent: "tarn/" + a.version}
}

// parsePlatform reads --platform; "" is this machine's.
func parsePlatform(s string) (image.Platform, error) {
	if s == "" {
		return image.Platform{}, nil
	}
	return image.ParsePlatform(s)
}

func newPullCmd(a *app) *cobra.Command {
	var (
		reg      registryFlags
		opts     engine.PullOptions
		platform string
		quiet    bool
	)
	cmd := &cobra.Command{
		Use:     "pull [flags] NAME[:TAG|@DIGEST]",
		GroupID: groupRegistries,
		Short:   "Fetch an image from a registry",
		Long: `Fetch an image from a registry.

Short names are Docker's: "debian" is docker.io/library/debian:latest. Every layer is
checked against the image's digests before it can be seen. What is here already is not
fetched, and a pull that was interrupted goes on where it broke off.

Credentials are those of 'tarn login' and 'docker login'. Mirrors and other locations
are read from /etc/containers/registries.conf.`,
		Example: `  tarn pull debian:12
  tarn pull --platform linux/arm64 registry.example.com/team/app
  tarn pull --verify-key cosign.pub registry.example.com/team/app
  tarn pull --tls-verify=false registry.local:5000/app@sha256:…`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.Registry = reg.options(a)
			var err error
			if opts.Platform, err = parsePlatform(platform); err != nil {
				return err
			}
			return a.pull(cmd, args[0], opts, quiet)
		},
	}
	flags := cmd.Flags()
	reg.add(flags)
	flags.StringVar(&platform, "platform", "", "`os/architecture[/variant]` to choose where there are several (default: this machine's)")
	flags.BoolVar(&opts.All, "all", false, "fetch signatures, attestations and other referrers, too, for 'tarn push --all'")
	flags.StringVar(&opts.VerifyKey, "verify-key", "", "`file` with a public key: refuse the image unless it has a cosign signature of it")
	flags.BoolVarP(&quiet, "quiet", "q", false, "print only the image's name")
	return cmd
}

func (a *app) pull(cmd *cobra.Command, name string, opts engine.PullOptions, quiet bool) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	shown := newProgress(os.Stderr, quiet, false)
	opts.Report = shown.report
	pulled, err := e.Pull(cmd.Context(), name, opts)
	shown.close()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if !quiet {
		status := "Downloaded newer image for"
		if pulled.UpToDate {
			status = "Image is up to date for"
		}
		if pulled.Companions > 0 {
			fmt.Fprintf(out, "Signatures and other referrers: %d\n", pulled.Companions)
		}
		fmt.Fprintf(out, "Digest: %s\nStatus: %s %s\n", pulled.Digest, status, pulled.Name.Familiar())
	}
	_, err = fmt.Fprintln(out, pulled.Name)
	return err
}
