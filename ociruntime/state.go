package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"text/tabwriter"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// statePaused is a status that the specification does not have, but runc.
const statePaused specs.ContainerState = "paused"

// report is what "state" and "list" print of a container: the specification's state, and what runc
// adds to it.
type report struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (r *runtime) report(rec record) (report, error) {
	status, err := r.status(rec)
	if err != nil {
		return report{}, err
	}
	out := report{
		Version: rec.Version, ID: rec.ID, Pid: rec.Pid, Status: status, Bundle: rec.Bundle, Rootfs: rec.Rootfs,
		Created: rec.Created, Annotations: rec.Annotations, Owner: strconv.Itoa(rec.Owner),
	}
	if status == specs.StateStopped {
		out.Pid = 0
	}
	return out, nil
}

func state(_ context.Context, r *runtime, args []string) (int, error) {
	rest, err := parse(newFlags("state"), args, 1, 1)
	if err != nil {
		return 1, err
	}
	rec, err := r.read(rest[0])
	if err != nil {
		return 1, err
	}
	out, err := r.report(rec)
	if err != nil {
		return 1, err
	}
	return 0, printJSON(os.Stdout, out)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func list(_ context.Context, r *runtime, args []string) (int, error) {
	var format string
	var quiet bool
	flags := newFlags("list")
	flags.StringVar(&format, "format", "table", "`format`: table or json")
	flags.StringVar(&format, "f", "table", "`format`: table or json")
	flags.BoolVar(&quiet, "quiet", false, "print IDs only")
	flags.BoolVar(&quiet, "q", false, "print IDs only")
	if _, err := parse(flags, args, 0, 0); err != nil {
		return 1, err
	}
	all, err := r.reports()
	if err != nil {
		return 1, err
	}
	switch {
	case quiet:
		for _, c := range all {
			fmt.Println(c.ID)
		}
		return 0, nil
	case format == "json":
		return 0, json.NewEncoder(os.Stdout).Encode(all)
	case format == "table":
		return 0, printTable(os.Stdout, all)
	default:
		return 1, fmt.Errorf("%w: unknown format %q", errUsage, format)
	}
}

// reports gives all containers. What is not a whole one, is being made or removed, is left out.
func (r *runtime) reports() ([]report, error) {
	entries, err := os.ReadDir(r.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := []report{}
	for _, e := range entries {
		rec, err := r.read(e.Name())
		if errors.Is(err, errNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		c, err := r.report(rec)
		if err != nil {
			return nil, err
		}
		c.Owner = userName(c.Owner)
		all = append(all, c)
	}
	return all, nil
}

// userName gives a user's name, or the number where that has none.
func userName(uid string) string {
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

func printTable(w io.Writer, all []report) error {
	t := tabwriter.NewWriter(w, 12, 1, 3, ' ', 0)
	fmt.Fprintln(t, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, c := range all {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n",
			c.ID, c.Pid, c.Status, c.Bundle, c.Created.Format(time.RFC3339Nano), c.Owner)
	}
	return t.Flush()
}
