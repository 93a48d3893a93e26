package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
)

func newCompletionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "completion {bash | zsh | fish}",
		Short: "Print a shell's completion of tarn's commands, flags, images and containers",
		Example: `  source <(tarn completion bash)                # in this shell
  tarn completion bash > /etc/bash_completion.d/tarn
  tarn completion zsh > "${fpath[1]}/_tarn"
  tarn completion fish > ~/.config/fish/completions/tarn.fish`,
		Args:      arguments(1, 1),
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return writeCompletion(cmd.Root(), args[0], cmd.OutOrStdout())
		},
	}
}

func writeCompletion(root *cobra.Command, shell string, w io.Writer) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	default:
		return fmt.Errorf("completion: unknown shell %q: use bash, zsh or fish", shell)
	}
}

// completer gives the words that an argument may be.
type completer = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// complete completes the first most arguments by the names that list gives; most is -1 for all.
func complete(most int, list func(cmd *cobra.Command) ([]string, error)) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := list(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		// What stands there already is not wanted twice.
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// suggest completes a flag's value by words. One that ends in "=" is to be continued.
func suggest(cmd *cobra.Command, flag string, words ...string) {
	directive := cobra.ShellCompDirectiveNoFileComp
	if slices.ContainsFunc(words, func(word string) bool { return strings.HasSuffix(word, "=") }) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, directive)); err != nil {
		panic(err) // there is no such flag
	}
}

// completeEach completes the first argument by the names of the first list, the second by those of the
// second, and so on.
func completeEach(lists ...func(cmd *cobra.Command) ([]string, error)) completer {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(lists) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(-1, lists[len(args)])(cmd, args, toComplete)
	}
}

// imageNames lists the images for a completion.
func (a *app) imageNames(cmd *cobra.Command) ([]string, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	rows, err := e.Images(cmd.Context(), engine.ImageFilter{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, row := range rows {
		if !row.Dangling() {
			names = append(names, row.Name.Familiar())
		}
	}
	return names, nil
}

// containerNames lists the containers for a completion.
func (a *app) containerNames(cmd *cobra.Command) ([]string, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	containers, err := e.Containers(cmd.Context(), engine.ContainerFilter{All: true})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range containers {
		names = append(names, c.Name)
	}
	return names, nil
}

// allNames lists containers, then images.
func (a *app) allNames(cmd *cobra.Command) ([]string, error) {
	containers, err := a.containerNames(cmd)
	if err != nil {
		return nil, err
	}
	images, err := a.imageNames(cmd)
	return slices.Concat(containers, images), err
}

// mountedNames lists what 'tarn mount' shows.
func (a *app) mountedNames(cmd *cobra.Command) ([]string, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	mounts, err := e.Mounts(cmd.Context())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, mount := range mounts {
		names = append(names, mount.Name)
	}
	return names, nil
}

// volumeNames lists the volumes for a completion.
func (a *app) volumeNames(cmd *cobra.Command) ([]string, error) {
	e, err := a.engine()
	if err != nil {
		return nil, err
	}
	volumes, err := e.Volumes(cmd.Context(), engine.VolumeFilter{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range volumes {
		names = append(names, v.Name)
	}
	return names, nil
}
