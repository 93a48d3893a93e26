package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tarnfs/tarn/image"
)

// ContainerReport is a container as "docker container inspect" prints it.
type ContainerReport struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           StateReport
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string // with a slash before it
	RestartCount    int
	Driver          string
	Platform        string
	HostConfig      HostConfig
	GraphDriver     GraphDriver
	Mounts          []MountPoint
	Config          ConfigReport
	NetworkSettings NetworkSettingsReport
}

// StateReport is how a container is.
type StateReport struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
	OOMKilled  bool
	Health     *Health `json:",omitempty"`
}

// ConfigReport is the part of a container's settings that an image can have too, and what belongs
// to it.
type ConfigReport struct {
	image.RunConfig
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
}

// InspectContainer describes a container.
func (e *Engine) InspectContainer(ctx context.Context, key string) (*ContainerReport, error) {
	c, err := e.container(ctx, key)
	if err != nil {
		return nil, err
	}
	config, err := e.config(c)
	if err != nil {
		return nil, err
	}
	driver, err := e.graphDriver(config.RootFS.DiffIDs)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	settings := c.Settings
	report := &ContainerReport{
		ID: c.ID, Created: c.Created.UTC().Format(time.RFC3339Nano), Path: settings.Path, Args: settings.Args,
		State: c.stateReport(), Image: string(c.ImageID), Name: "/" + c.Name,
		ResolvConfPath: filepath.Join(c.Dir(), "resolv.conf"), HostnamePath: filepath.Join(c.Dir(), "hostname"), HostsPath: filepath.Join(c.Dir(), "hosts"),
		RestartCount: c.State.RestartCount,
		Driver:       driver.Name, Platform: config.OS, HostConfig: settings.Host, Mounts: mountReports(settings.Mounts),
		GraphDriver: driver,
		Config: ConfigReport{
			RunConfig: settings.Config, AttachStdin: settings.Interactive, AttachStdout: true, AttachStderr: true,
			Tty: settings.Terminal, OpenStdin: settings.Interactive, StdinOnce: settings.Interactive,
		},
	}
	if c.logFormat() == LogJSON { // as Docker has it: what is in others is nobody else's business
		files, err := c.logFiles()
		if err != nil {
			return nil, err
		}
		report.LogPath = files.Path
	}
	if report.State.Health, err = c.Health(); err != nil {
		return nil, err
	}
	if report.Args == nil {
		report.Args = []string{}
	}
	if report.NetworkSettings, err = e.networkReport(ctx, c); err != nil {
		return nil, fmt.Errorf("container %s: %w", c.Name, err)
	}
	return report, e.addOwnLayers(report, c, config)
}

// mountReports leaves out what is only tarn's.
func mountReports(mounts []MountPoint) []MountPoint {
	reports := make([]MountPoint, 0, len(mounts))
	for _, m := range mounts {
		m.Anonymous, m.NoCopy, m.MountTuning = false, false, MountTuning{}
		reports = append(reports, m)
	}
	return reports
}

// addOwnLayers completes what overlayfs is given: the init layer, the container's own, and the
// place where "tarn mount" shows all of it.
func (e *Engine) addOwnLayers(report *ContainerReport, c *Container, config *image.Config) error {
	data := report.GraphDriver.Data
	if chain := image.ChainID(config.RootFS.DiffIDs); chain != "" {
		dir, found, err := e.Store.InitDir(chain)
		if err != nil {
			return err
		}
		if found {
			data["LowerDir"] = filepath.Join(dir, "root") + ":" + data["LowerDir"]
		}
	}
	data["UpperDir"], data["WorkDir"], data["MergedDir"] = c.UpperDir(), c.WorkDir(), e.mountPath(c.ID)
	return nil
}

func (c *Container) stateReport() StateReport {
	return StateReport{
		Status: c.Status(), Running: c.Running(), Paused: c.State.Paused, Restarting: c.State.Status == StatusRestarting,
		OOMKilled: c.State.OOMKilled, Pid: c.State.Process.PID, ExitCode: c.State.ExitCode, Error: c.State.Error,
		StartedAt: c.State.StartedAt.UTC().Format(time.RFC3339Nano), FinishedAt: c.State.FinishedAt.UTC().Format(time.RFC3339Nano),
	}
}
