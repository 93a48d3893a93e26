package engine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tarnfs/tarn/image"
)

// ErrOption is wrapped by errors about an option that cannot be carried out.
var ErrOption = errors.New("bad option")

// newSettings joins the image's config with what the user asked for, by Docker's rules.
func newSettings(d *creation, img *Image, inherited []MountPoint) (ContainerSettings, error) {
	opts := d.opts
	config := img.Config.Config.Clone()
	if err := setCommand(&config, opts); err != nil {
		return ContainerSettings{}, err
	}
	if opts.User != "" {
		config.User = opts.User
	}
	if opts.WorkDir != "" {
		if !path.IsAbs(opts.WorkDir) {
			return ContainerSettings{}, fmt.Errorf("%w: the working directory %q is not absolute", ErrOption, opts.WorkDir)
		}
		config.WorkingDir = path.Clean(opts.WorkDir)
	}
	if opts.StopSignal != "" {
		config.StopSignal = opts.StopSignal
	}
	if opts.StopTimeout != nil {
		seconds := int(*opts.StopTimeout / time.Second)
		config.StopTimeout = &seconds
	}
	var err error
	if config.Healthcheck, err = opts.Health.apply(config.Healthcheck); err != nil {
		return ContainerSettings{}, err
	}
	config.Hostname, config.Image = d.hostname, opts.Image
	labels, err := readEntryFiles("label file", opts.LabelFiles)
	if err != nil {
		return ContainerSettings{}, err
	}
	if config.Labels, err = mergeLabels(config.Labels, append(labels, opts.Labels...)); err != nil {
		return ContainerSettings{}, err
	}
	if config.Env, err = environment(&config, opts); err != nil {
		return ContainerSettings{}, err
	}
	if config.ExposedPorts, err = exposePorts(config.ExposedPorts, &opts.NetworkOptions, &d.host); err != nil {
		return ContainerSettings{}, err
	}
	mounts, err := mountPoints(config.Volumes, opts, inherited)
	if err != nil {
		return ContainerSettings{}, err
	}
	settings := ContainerSettings{
		Config: config, Host: d.host, Mounts: mounts, Networks: d.networks,
		Terminal: opts.Terminal, Interactive: opts.Interactive, Owner: d.owner,
	}
	settings.Host.Tmpfs = tmpfsOf(mounts)
	words := slices.Concat(config.Entrypoint, config.Cmd)
	settings.Path, settings.Args = words[0], words[1:]
	return settings, nil
}

// setCommand: a new entry point leaves nothing of the image's command.
func setCommand(config *image.RunConfig, opts *CreateOptions) error {
	if opts.Entrypoint != nil {
		config.Entrypoint, config.Cmd = nil, nil
		if *opts.Entrypoint != "" {
			config.Entrypoint = image.Words{*opts.Entrypoint}
		}
	}
	if len(opts.Command) > 0 {
		config.Cmd = opts.Command
	}
	if len(config.Entrypoint)+len(config.Cmd) == 0 {
		return fmt.Errorf("%w: image %s names no command: give one after its name", ErrOption, opts.Image)
	}
	return nil
}

// environment is the image's, changed as the user asked. What every container has besides is added
// when it starts, see processEnv: of another container made from this one it would not be true.
func environment(config *image.RunConfig, opts *CreateOptions) ([]string, error) {
	entries, err := readEntryFiles("environment file", opts.EnvFiles)
	if err != nil {
		return nil, err
	}
	env := config.Env
	for _, entry := range append(entries, opts.Env...) {
		if env, err = applyEnv(env, entry); err != nil {
			return nil, err
		}
		if _, set := image.LookupEnv(env, entry); !set && !strings.Contains(entry, "=") {
			env = append(env, entry) // it is to be without what every container has, too
		}
	}
	return env, nil
}

// hostConfig takes over what the options say of the host, and what is the same for every image.
func hostConfig(opts *CreateOptions) HostConfig {
	return HostConfig{
		AutoRemove: opts.Remove, ReadonlyRootfs: opts.ReadOnly,
		Binds: opts.Volumes, SecurityOpt: opts.SecurityOpt, VolumesFrom: opts.VolumesFrom,
		RestartPolicy: opts.Restart, LogConfig: opts.Log, Init: opts.Init, ContainerIDFile: opts.CIDFile,
	}
}

// isolate takes over what the options say of limits and isolation, when its network is known.
func (h *HostConfig) isolate(opts *CreateOptions) error {
	security, err := parseSecurity(opts.SecurityOpt)
	if err != nil {
		return err
	}
	if h.Resources, err = opts.Resources.parse(); err != nil {
		return err
	}
	h.Isolation, err = opts.Isolation.parse(opts.Hostname, h.NetworkMode, &security)
	return err
}

func tmpfsOf(mounts []MountPoint) map[string]string {
	var options map[string]string
	for _, m := range mounts {
		if m.Type != mountTmpfs {
			continue
		}
		if options == nil {
			options = make(map[string]string)
		}
		options[m.Destination] = m.Mode
	}
	return options
}
