package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tarnfs/tarn/engine"
	"github.com/tarnfs/tarn/internal/format"
)

// statsRow is what a container uses, as --format sees it.
type statsRow struct {
	Container, Name, ID, CPUPerc, MemUsage, MemPerc, NetIO, BlockIO, PIDs string
}

// statsPause is between two looks: what a processor did meanwhile is a share of it.
const statsPause = time.Second

func newStatsCmd(a *app) *cobra.Command {
	var (
		list          listing
		all, noStream bool
	)
	cmd := &cobra.Command{
		Use:     "stats [flags] [CONTAINER...]",
		GroupID: groupContainers,
		Short:   "Show what containers use, again and again",
		Long: `Show what containers use, again and again: those that run, or these. 100 % is one
processor. What the kernel could take back at once is not counted as memory.

Fields for --format: .Container .Name .ID .CPUPerc .MemUsage .MemPerc .NetIO .BlockIO .PIDs`,
		Example: `  tarn stats
  tarn stats --no-stream --format '{{.Name}} {{.MemUsage}}' web`,
		Args: arguments(0, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			template, err := list.template("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
			if err != nil {
				return err
			}
			e, err := a.engine()
			if err != nil {
				return err
			}
			s := &stats{cmd: cmd, engine: e, list: &list, names: args, all: all, before: make(map[string]*engine.ContainerUsage)}
			if _, err := s.rows(); err != nil { // the first look
				return err
			}
			for {
				select {
				case <-time.After(statsPause):
				case <-cmd.Context().Done():
					return nil
				}
				rows, err := s.rows()
				if err != nil {
					return err
				}
				if !noStream && list.format == "" {
					clearScreen(cmd.OutOrStdout())
				}
				if err := format.Execute(cmd.OutOrStdout(), template, statsTitles(), rows); err != nil || noStream {
					return err
				}
			}
		},
		ValidArgsFunction: complete(-1, a.containerNames),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&all, "all", "a", false, "show those that do not run, too")
	flags.BoolVar(&noStream, "no-stream", false, "show it once")
	flags.BoolVar(&list.noTrunc, "no-trunc", false, "shorten nothing")
	flags.StringVar(&list.format, "format", "", "print each by a Go `template`; 'table TEMPLATE' for columns with titles, 'json' for all")
	return cmd
}

func statsTitles() statsRow {
	return statsRow{
		Container: "CONTAINER", Name: "NAME", ID: "CONTAINER ID", CPUPerc: "CPU %", MemUsage: "MEM USAGE / LIMIT", MemPerc: "MEM %",
		NetIO: "NET I/O", BlockIO: "BLOCK I/O", PIDs: "PIDS",
	}
}

// clearScreen clears a terminal, and moves to its first line (ECMA-48: ED, CUP).
func clearScreen(w io.Writer) { fmt.Fprint(w, "\033[2J\033[H") }

type stats struct {
	cmd    *cobra.Command
	engine *engine.Engine
	list   *listing
	names  []string
	all    bool
	before map[string]*engine.ContainerUsage // by ID
}

func (s *stats) rows() ([]statsRow, error) {
	names := s.names
	if len(names) == 0 {
		containers, err := s.engine.Containers(s.cmd.Context(), engine.ContainerFilter{All: s.all})
		if err != nil {
			return nil, err
		}
		for _, c := range containers {
			names = append(names, c.ID)
		}
	}
	var rows []statsRow
	for _, name := range names {
		now, err := s.engine.ContainerUsage(s.cmd.Context(), name)
		if errors.Is(err, engine.ErrNoContainer) && len(s.names) == 0 {
			continue // it was removed since they were listed
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, s.row(name, now))
		s.before[now.ID] = now
	}
	return rows, nil
}

func (s *stats) row(name string, u *engine.ContainerUsage) statsRow {
	cpu, memory := 0.0, 0.0
	if before := s.before[u.ID]; before != nil && u.CPU > before.CPU {
		cpu = 100 * float64(u.CPU-before.CPU) / float64(u.At.Sub(before.At))
	}
	if u.MemoryLimit > 0 {
		memory = 100 * float64(u.Memory) / float64(u.MemoryLimit)
	}
	pair := func(a, b uint64, size func(int64) string) string { return size(int64(a)) + " / " + size(int64(b)) }
	return statsRow{
		Container: name, Name: u.Name, ID: s.list.hexID(u.ID), CPUPerc: fmt.Sprintf("%.2f%%", cpu),
		MemUsage: pair(u.Memory, u.MemoryLimit, format.BinarySize), MemPerc: fmt.Sprintf("%.2f%%", memory),
		NetIO: pair(u.NetRead, u.NetWrite, format.Size), BlockIO: pair(u.BlockRead, u.BlockWrite, format.Size),
		PIDs: fmt.Sprint(u.Processes),
	}
}
