package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Config is an image's configuration: OCI image-spec config.md with Docker's extensions. An
// image's ID is the digest of its bytes as they came, so keep those; this is a view of them.
type Config struct {
	Created         *time.Time      `json:"created,omitempty"`
	Author          string          `json:"author,omitempty"`
	Comment         string          `json:"comment,omitempty"`
	Architecture    string          `json:"architecture"`
	Variant         string          `json:"variant,omitempty"`
	OS              string          `json:"os"`
	OSVersion       string          `json:"os.version,omitempty"`
	OSFeatures      []string        `json:"os.features,omitempty"`
	Config          RunConfig       `json:"config"`
	Container       string          `json:"container,omitempty"`
	ContainerConfig json.RawMessage `json:"container_config,omitempty"`
	DockerVersion   string          `json:"docker_version,omitempty"`
	RootFS          RootFS          `json:"rootfs"`
	History         []History       `json:"history,omitempty"`
}

// RunConfig says how to run a container of the image.
type RunConfig struct {
	Hostname        string              `json:"Hostname,omitempty"`
	Domainname      string              `json:"Domainname,omitempty"`
	User            string              `json:"User,omitempty"`
	ExposedPorts    map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env             []string            `json:"Env,omitempty"`
	Entrypoint      Words               `json:"Entrypoint,omitempty"`
	Cmd             Words               `json:"Cmd,omitempty"`
	Healthcheck     *Healthcheck        `json:"Healthcheck,omitempty"`
	ArgsEscaped     bool                `json:"ArgsEscaped,omitempty"`
	Image           string              `json:"Image,omitempty"`
	Volumes         map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir      string              `json:"WorkingDir,omitempty"`
	NetworkDisabled bool                `json:"NetworkDisabled,omitempty"`
	MacAddress      string              `json:"MacAddress,omitempty"`
	OnBuild         []string            `json:"OnBuild,omitempty"`
	Labels          map[string]string   `json:"Labels,omitempty"`
	StopSignal      string              `json:"StopSignal,omitempty"`
	StopTimeout     *int                `json:"StopTimeout,omitempty"`
	Shell           Words               `json:"Shell,omitempty"`
}

// Healthcheck is how to tell that a container works (Docker's HEALTHCHECK). Durations are in
// nanoseconds; zero is inherited.
type Healthcheck struct {
	Test          []string      `json:"Test,omitempty"`
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`
	StartInterval time.Duration `json:"StartInterval,omitempty"`
	Retries       int           `json:"Retries,omitempty"`
}

// RootFS lists the layers by diffID, the lowest first.
type RootFS struct {
	Type    string   `json:"type"`
	DiffIDs []Digest `json:"diff_ids"`
}

// History is one step of how the image was made.
type History struct {
	Created    *time.Time `json:"created,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	Author     string     `json:"author,omitempty"`
	Comment    string     `json:"comment,omitempty"`
	EmptyLayer bool       `json:"empty_layer,omitempty"`
}

// Words is a command line. Old builders wrote it as one string, which is one word then.
type Words []string

// UnmarshalJSON accepts a list or a string.
func (w *Words) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var one string
		if err := json.Unmarshal(data, &one); err != nil {
			return err
		}
		*w = Words{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	*w = many
	return nil
}

// ParseConfig reads and checks an image configuration.
func ParseConfig(raw []byte) (*Config, error) {
	c := new(Config)
	if err := decode(raw, c, MaxConfigSize); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	return c, nil
}

func (c *Config) validate() error {
	if c.RootFS.Type != "layers" {
		return fmt.Errorf("%w: rootfs of type %q, want \"layers\"", ErrDocument, clip(c.RootFS.Type))
	}
	if len(c.RootFS.DiffIDs) > maxLayers {
		return fmt.Errorf("%w: %d layers, the limit is %d", ErrDocument, len(c.RootFS.DiffIDs), maxLayers)
	}
	for i, id := range c.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return fmt.Errorf("%w: layer %d: %w", ErrDocument, i, err)
		}
		if id.Algorithm() != SHA256 {
			return fmt.Errorf("%w: layer %d: diffID by %s, only sha256 is supported", ErrDocument, i, id.Algorithm())
		}
	}
	return nil
}

// Marshal writes the config. The same Config always gives the same bytes.
func (c *Config) Marshal() ([]byte, error) {
	if c.RootFS.DiffIDs == nil {
		c.RootFS.DiffIDs = []Digest{}
	}
	return json.Marshal(c)
}

// Platform gives what machine the image is for.
func (c *Config) Platform() Platform {
	return Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion, OSFeatures: c.OSFeatures}
}

// CreatedAt gives the time of creation, or the zero time.
func (c *Config) CreatedAt() time.Time {
	if c.Created == nil {
		return time.Time{}
	}
	return *c.Created
}

// ChainID names a stack of layers, the lowest first, by one digest (OCI image-spec, config.md,
// "Layer ChainID"). No layers give "".
func ChainID(diffIDs []Digest) Digest {
	var chain Digest
	for _, id := range diffIDs {
		if chain == "" {
			chain = id
			continue
		}
		chain = DigestBytes([]byte(chain + " " + id))
	}
	return chain
}

// Clone gives a copy that shares nothing mutable with c.
func (c *RunConfig) Clone() RunConfig {
	clone := *c
	clone.ExposedPorts, clone.Volumes, clone.Labels = maps.Clone(c.ExposedPorts), maps.Clone(c.Volumes), maps.Clone(c.Labels)
	clone.Env, clone.OnBuild = slices.Clone(c.Env), slices.Clone(c.OnBuild)
	clone.Entrypoint, clone.Cmd, clone.Shell = slices.Clone(c.Entrypoint), slices.Clone(c.Cmd), slices.Clone(c.Shell)
	if c.Healthcheck != nil {
		check := *c.Healthcheck
		check.Test = slices.Clone(check.Test)
		clone.Healthcheck = &check
	}
	if c.StopTimeout != nil {
		clone.StopTimeout = new(*c.StopTimeout)
	}
	return clone
}

// LookupEnv gives the value of name among env's NAME=value entries; the last one counts.
func LookupEnv(env []string, name string) (string, bool) {
	for _, entry := range slices.Backward(env) {
		if len(entry) > len(name) && entry[len(name)] == '=' && entry[:len(name)] == name {
			return entry[len(name)+1:], true
		}
	}
	return "", false
}

// SetEnv sets name to value among env's NAME=value entries, in its place if it is there.
func SetEnv(env []string, name, value string) []string {
	entry := name + "=" + value
	for i, old := range env {
		if len(old) > len(name) && old[len(name)] == '=' && old[:len(name)] == name {
			env[i] = entry
			return env
		}
	}
	return append(env, entry)
}
