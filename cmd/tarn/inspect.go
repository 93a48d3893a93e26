package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

func newInspectCmd(a *app) *cobra.Command {
	var (
		kind, text, platform string
		remote               bool
		reg                  registryFlags
	)
	cmd := &cobra.Command{
		Use:     "inspect [flags] NAME...",
		GroupID: groupImages,
		Short:   "Describe containers and images in full, as JSON",
		Long: `Describe containers and images in full, as a JSON array in Docker's form. A name that both
a container and an image have is the container's, unless --type says otherwise. Volumes
and networks are described with --type volume or network.

--format takes a Go template of one object, with the functions json, join, split, lower,
upper, title, pad, truncate, println, and those of Go's own.`,
		Example: `  tarn inspect debian
  tarn inspect --type image --format '{{json .Config.Env}}' debian
  tarn inspect -f '{{.GraphDriver.Data.UpperDir}}' work
  tarn inspect --remote --platform linux/arm64 debian:12
  tarn inspect -f '{{join .RootFS.Layers "\n"}}' debian-hello`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			template, err := format.Parse(text)
			if err != nil {
				return err
			}
			var look func(string) (any, error)
			if remote {
				look, err = a.remoteInspector(cmd, platform, reg.options(a))
			} else {
				look, err = a.inspector(cmd, kind)
			}
			if err != nil {
				return err
			}
			return describe(cmd, args, text, template, look)
		},
		ValidArgsFunction: complete(-1, a.allNames),
	}
	flags := cmd.Flags()
	flags.StringVar(&kind, "type", engine.KindAny, "`kind` of what is described: container, image, network or volume")
	suggest(cmd, "type", engine.KindContainer, engine.KindImage, engine.KindNetwork, engine.KindVolume)
	flags.BoolVar(&remote, "remote", false, "describe images as they are in their registries; nothing is fetched but manifest and config")
	flags.StringVar(&platform, "platform", "", "with --remote: `os/architecture[/variant]` to choose (default: this machine's)")
	reg.add(flags)
	flags.StringVarP(&text, "format", "f", "", "print each by a Go `template`; 'json' for one line of JSON")
	return cmd
}

// newInspectOfCmd makes a command that describes things of one kind.
func newInspectOfCmd(a *app, kind string, names func(*cobra.Command) ([]string, error), cmd *cobra.Command) *cobra.Command {
	var text string
	cmd.Args, cmd.ValidArgsFunction = arguments(1, -1), complete(-1, names)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		template, err := format.Parse(text)
		if err != nil {
			return err
		}
		look, err := a.inspector(cmd, kind)
		if err != nil {
			return err
		}
		return describe(cmd, args, text, template, look)
	}
	cmd.Flags().StringVarP(&text, "format", "f", "", "print each by a Go `template`; 'json' for one line of JSON")
	return cmd
}

// describe prints what look finds under each name: as JSON, or if text is not "" by the template made of it.
func describe(cmd *cobra.Command, names []string, text string, template *format.Template, look func(string) (any, error)) error {
	found := []any{}
	failed := each(cmd, names, func(name string) error {
		object, err := look(name)
		if err == nil {
			found = append(found, object)
		}
		return err
	})
	if text == "" {
		return cmp.Or(writeJSON(cmd.OutOrStdout(), found), failed)
	}
	for _, object := range found {
		if err := format.Object(cmd.OutOrStdout(), template, object); err != nil {
			return err
		}
	}
	return failed
}

// inspector describes what is in the store.
func (a *app) inspector(cmd *cobra.Command, kind string) (func(name string) (any, error), error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	return func(name string) (any, error) { return e.Inspect(cmd.Context(), name, kind) }, nil
}

// remoteInspector describes what is in registries. It needs no store.
func (a *app) remoteInspector(cmd *cobra.Command, platform string, opts engine.RegistryOptions) (func(name string) (any, error), error) {
	p, err := parsePlatform(platform)
	if err != nil {
		return nil, err
	}
	return func(name string) (any, error) { return engine.InspectRemote(cmd.Context(), name, p, opts) }, nil
}

// writeJSON prints for people, as Docker does.
func writeJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "    ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
