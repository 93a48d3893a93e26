package main

import (
	"fmt"
	"io"

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
		return names, cobra.ShellCompDirectiveNoFileComp
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
