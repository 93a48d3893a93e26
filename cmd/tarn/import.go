package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newImportCmd(a *app) *cobra.Command {
	var (
		opts     engine.ImportOptions
		platform string
	)
	cmd := &cobra.Command{
		Use:     "import [flags] {TAR | -} [NAME[:TAG]]",
		GroupID: groupImages,
		Short:   "Make an image from the tar of a root file system",
		Long: `Make an image of one layer from the tar of a root file system, plain or compressed by
gzip or zstd, and print the image's ID. "-" reads standard input.

--cmd and --entrypoint take a command for the shell, or a JSON list of words. --change
takes Dockerfile instructions and is applied last.

The same tar, options and $SOURCE_DATE_EPOCH give the same ID. An archive of images,
as 'docker save' writes it, is for 'tarn load'.`,
		Example: `  tarn import --name debian debian-root.tar
  tarn import debian-root.tar.zst debian:12
  mmdebstrap --variant=minbase stable - | tarn import --name debian --cmd bash -
  tarn import --name web --entrypoint '["nginx", "-g", "daemon off;"]' --env LANG=C.UTF-8 \
      --workdir /srv --user www-data --label stage=test root.tar.gz
  tarn import --name web --change 'EXPOSE 80' --change 'STOPSIGNAL SIGQUIT' root.tar`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 2 {
				if opts.Name != "" {
					return usageError(cmd, fmt.Errorf("two names: %q and %q", opts.Name, args[1]))
				}
				opts.Name = args[1]
			}
			if opts.Platform, err = parsePlatform(platform); err != nil {
				return err
			}
			return a.importTar(cmd, args[0], opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Name, "name", "", "`name[:tag]` of the image (default: none)")
	flags.StringVar(&opts.Cmd, "cmd", "", "`command` that containers run unless another is given")
	flags.StringVar(&opts.Entrypoint, "entrypoint", "", "`command` that containers run with the other as its arguments")
	listVarP(flags, &opts.Env, "env", "e", "environment: `NAME=value`, or NAME for the value it has here")
	flags.StringVarP(&opts.User, "user", "u", "", "`user` to run as: name or ID, with \":group\" if not the user's own")
	flags.StringVarP(&opts.WorkDir, "workdir", "w", "", "working `directory`")
	listVarP(flags, &opts.Labels, "label", "l", "label: `KEY=value`, or KEY")
	listVarP(flags, &opts.Changes, "change", "c", "Dockerfile `instruction` to apply: CMD, ENTRYPOINT, ENV, EXPOSE, ...")
	flags.StringVarP(&opts.Message, "message", "m", "", "`text` for the image's history")
	flags.StringVarP(&opts.Author, "author", "a", "", "author, such as `\"Ada <ada@example.com>\"`")
	flags.StringVar(&platform, "platform", "", "`os/arch[/variant]` that the root file system is for (default: this machine's)")
	return cmd
}

func (a *app) importTar(cmd *cobra.Command, tar string, opts engine.ImportOptions) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	id, err := e.ImportFile(cmd.Context(), tar, os.Stdin, opts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
	return err
}
