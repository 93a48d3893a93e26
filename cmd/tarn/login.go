package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tarnfs/tarn/engine"
)

// maxPassword bounds what is read as one; tokens have some thousand characters.
const maxPassword = 64 << 10

func newLoginCmd(a *app) *cobra.Command {
	var (
		reg            registryFlags
		user, password string
		fromStdin      bool
	)
	cmd := &cobra.Command{
		Use:     "login [flags] [REGISTRY]",
		GroupID: groupRegistries,
		Short:   "Log in to a registry",
		Long: `Log in to a registry, or to Docker Hub.

Name and password (or token) are checked with the registry, and kept where 'docker login'
keeps them: in $DOCKER_CONFIG or ~/.docker/config.json, or with the credential helper that
this file names. Without a helper they are not encrypted.`,
		Example: `  tarn login registry.example.com
  tarn login -u user --password-stdin registry.example.com < token`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			registry := ""
			if len(args) == 1 {
				registry = args[0]
			}
			user, password, err := credentials(cmd, user, password, fromStdin)
			if err != nil {
				return err
			}
			if _, err := engine.Login(cmd.Context(), reg.options(a), registry, user, password); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "Login Succeeded")
			return err
		},
	}
	flags := cmd.Flags()
	reg.add(flags)
	flags.StringVarP(&user, "username", "u", "", "`name` of the user (default: ask)")
	flags.StringVarP(&password, "password", "p", "", "`password` or token, for all to see who list processes (default: ask)")
	flags.BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	cmd.MarkFlagsMutuallyExclusive("password", "password-stdin")
	return cmd
}

var errNoCredentials = errors.New("name or password missing")

// credentials asks for what was not given.
func credentials(cmd *cobra.Command, user, password string, fromStdin bool) (string, string, error) {
	if fromStdin {
		if user == "" {
			return "", "", fmt.Errorf("%w: --password-stdin needs --username", errNoCredentials)
		}
		text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxPassword))
		return user, strings.TrimRight(string(text), "\r\n"), err
	}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	if (user == "" || password == "") && !terminal {
		return "", "", fmt.Errorf("%w, and there is no terminal to ask on: use --username and --password-stdin", errNoCredentials)
	}
	if user == "" {
		fmt.Fprint(os.Stderr, "Username: ")
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if err != nil {
			return "", "", fmt.Errorf("read the name: %w", err)
		}
		user = strings.TrimSpace(line)
	}
	if password == "" {
		fmt.Fprint(os.Stderr, "Password: ")
		text, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return "", "", fmt.Errorf("read the password: %w", err)
		}
		password = string(text)
	}
	if user == "" || password == "" {
		return "", "", errNoCredentials
	}
	return user, password, nil
}

func newLogoutCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "logout [REGISTRY]",
		GroupID: groupRegistries,
		Short:   "Forget the credentials of a registry",
		Long:    "Forget the credentials of a registry, or of Docker Hub, that 'tarn login' or 'docker\nlogin' kept.",
		Example: "  tarn logout registry.example.com",
		Args:    arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			registry := ""
			if len(args) == 1 {
				registry = args[0]
			}
			name, known, err := engine.Logout(engine.RegistryOptions{}, registry)
			if err != nil {
				return err
			}
			text := "Removing login credentials for " + name
			if !known {
				text = "Not logged in to " + name
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
}
