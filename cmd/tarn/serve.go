package main

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newServeCmd(a *app) *cobra.Command {
	var opts engine.ServeOptions
	cmd := &cobra.Command{
		Use:     "serve [flags]",
		GroupID: groupRegistries,
		Short:   "Be a registry: let other machines pull from this store and push to it",
		Long: `Be an OCI registry over the store of this machine, until interrupted.

Every image that has a name is served under that name, short or in full:
debian:latest is HOST:PORT/debian:latest and HOST:PORT/docker.io/library/debian:latest,
ghcr.io/me/tool:v1 is HOST:PORT/ghcr.io/me/tool:v1. (Names that hold a port themselves
are not: give the image another one with 'tarn tag'.)

What is pushed becomes an image here, of the name it was pushed to: HOST:PORT/debian
replaces debian. Its layers are verified against its config; if they do not match, the
image can be pulled again, but is not listed and cannot be run. Signatures and other
artifacts, and indexes with the images of all platforms, are kept beside. What is
deleted is gone for 'tarn images' as well, except for what containers use.

By default only this machine is served, to whoever asks, in the clear. For others:
--listen, with --tls-cert and --tls-key, and --htpasswd or --read-only.`,
		Example: `  tarn serve                              # 127.0.0.1:5000
  tarn serve --listen :5000 --read-only   # to everybody, for pulling
  htpasswd -Bc users me; tarn serve --listen :443 --tls-cert host.crt --tls-key host.key --htpasswd users`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			opts.Log = func(line string) {
				fmt.Fprintln(cmd.ErrOrStderr(), time.Now().Format(time.DateTime), line)
			}
			opts.Started = func(s engine.Served) { announce(cmd, e.Store.Root(), opts, s) }
			return e.Serve(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Listen, "listen", "127.0.0.1:5000", "`address:port` to listen on; without an address, on all")
	flags.BoolVar(&opts.ReadOnly, "read-only", false, "nothing can be pushed or deleted")
	flags.StringVar(&opts.TLSCert, "tls-cert", "", "`file` with the certificate, and those that lead to its authority")
	flags.StringVar(&opts.TLSKey, "tls-key", "", "`file` with the certificate's key")
	flags.StringVar(&opts.Htpasswd, "htpasswd", "", "`file` with the users and their passwords, as 'htpasswd -B' writes it")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	return cmd
}

// announce says what is served, to whom, and what that means.
func announce(cmd *cobra.Command, root string, opts engine.ServeOptions, s engine.Served) {
	scheme, access, who := "http", "pull and push", "anyone"
	if s.TLS {
		scheme = "https"
	}
	if opts.ReadOnly {
		access = "pull only"
	}
	if opts.Htpasswd != "" {
		who = "the users in " + opts.Htpasswd
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Serving %s at %s://%s (%d repositories; %s, by %s). Ctrl-C ends it.\n",
		root, scheme, s.Address, s.Repositories, access, who)
	if isLoopback(s.Address) {
		return
	}
	switch {
	case opts.Htpasswd == "" && !opts.ReadOnly:
		opts.Log("warning: whoever reaches " + s.Address + " can replace this machine's images (see --htpasswd, --read-only)")
	case opts.Htpasswd != "" && !s.TLS:
		opts.Log("warning: passwords are sent in the clear (see --tls-cert)")
	}
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && net.ParseIP(host).IsLoopback()
}
