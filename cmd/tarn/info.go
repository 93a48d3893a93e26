package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

func newInfoCmd(a *app) *cobra.Command {
	var text string
	cmd := &cobra.Command{
		Use:     "info [flags]",
		GroupID: groupStore,
		Short:   "Describe the store, and what this machine can do",
		Long: `Describe the store, and what this machine can do: how layers are mounted, which cgroups there
are, and what the kernel lacks, if anything.`,
		Example: `  tarn info
  tarn info -f '{{.Driver}} {{.CgroupVersion}}'
  tarn info -f json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			template, err := format.Parse(text)
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			info, err := e.Info(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if text == "" {
				printInfo(out, a.version, info)
				return nil
			}
			return format.Execute(out, template, nil, []any{info})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&text, "format", "f", "", "print it by a Go `template`; 'json' for one line of JSON")
	return cmd
}

func printInfo(out io.Writer, version string, i *engine.Info) {
	line := func(indent int, name string, value any) {
		fmt.Fprintf(out, "%s%s: %v\n", strings.Repeat(" ", indent), name, value)
	}
	line(0, "Containers", i.Containers)
	line(1, "Running", i.ContainersRunning)
	line(1, "Paused", i.ContainersPaused)
	line(1, "Stopped", i.ContainersStopped)
	line(0, "Images", i.Images)
	line(0, "Tarn Version", version)
	line(0, "Storage Driver", i.Driver)
	for _, status := range i.DriverStatus {
		line(1, status[0], status[1])
	}
	line(0, "Logging Driver", i.LoggingDriver)
	line(0, "Cgroup Driver", i.CgroupDriver)
	line(0, "Cgroup Version", i.CgroupVersion)
	line(0, "Security Options", strings.Join(i.SecurityOptions, " "))
	line(0, "Kernel Version", i.KernelVersion)
	line(0, "Operating System", i.OperatingSystem)
	line(0, "OSType", i.OSType)
	line(0, "Architecture", i.Architecture)
	line(0, "CPUs", i.NCPU)
	line(0, "Total Memory", format.BinarySize(i.MemTotal))
	line(0, "Name", i.Name)
	line(0, "Root Dir", i.DockerRootDir)
	line(0, "Run Dir", i.RunDir)
	for _, warning := range i.Warnings {
		line(0, "WARNING", warning)
	}
}
