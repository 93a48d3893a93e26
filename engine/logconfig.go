package engine

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tarnfs/tarn/monitor/logfile"
)

// LogConfig says where a container's output goes, with Docker's names.
type LogConfig struct {
	Type   string            // LogLocal, LogJSON or LogNone
	Config map[string]string // "max-size" in bytes, with k, m or g; "max-file"
}

// Kinds of logs.
const (
	LogLocal = logfile.FormatLocal
	LogJSON  = logfile.FormatJSON
	LogNone  = "none" // nothing is kept
)

// minLocal is the least that a file of a local log can be limited to, in bytes: it has headers.
const minLocal = 1 << 10

// ParseLogConfig reads what --log-driver and --log-opt take; "" is LogLocal.
func ParseLogConfig(driver string, options []string) (LogConfig, error) {
	l := LogConfig{Type: driver, Config: make(map[string]string)}
	switch driver {
	case "":
		l.Type = LogLocal
	case LogLocal, LogJSON, LogNone:
	default:
		return l, fmt.Errorf("%w: log driver %q: use local, json-file or none", ErrOption, driver)
	}
	for _, option := range options {
		key, value, found := strings.Cut(option, "=")
		if !found || l.Type == LogNone {
			return l, fmt.Errorf("%w: log option %q: use max-size=SIZE and max-file=NUMBER, with local or json-file", ErrOption, option)
		}
		l.Config[key] = value
	}
	_, err := l.files("")
	return l, err
}

// files says how much of the log is kept, if it is at path.
func (l *LogConfig) files(path string) (f logfile.Files, err error) {
	f = logfile.Files{Path: path, MaxFile: 1}
	for key, value := range l.Config {
		switch key {
		case "max-size":
			if f.MaxSize, err = parseSize(value); err == nil && f.MaxSize < minLocal && l.Type == LogLocal {
				err = fmt.Errorf("it is less than %d bytes", minLocal)
			}
		case "max-file":
			if f.MaxFile, err = strconv.Atoi(value); err == nil && f.MaxFile < 1 {
				err = strconv.ErrRange
			}
		default:
			return f, fmt.Errorf("%w: log option %q: use max-size and max-file", ErrOption, key)
		}
		if err != nil {
			return f, fmt.Errorf("%w: log option %s=%s: %w", ErrOption, key, value, err)
		}
	}
	if f.MaxFile > 1 && f.MaxSize == 0 {
		return f, fmt.Errorf("%w: log option max-file: it needs max-size", ErrOption)
	}
	return f, nil
}

// logFormat is how the container's log is written, or LogNone.
func (c *Container) logFormat() string { return cmp.Or(c.Settings.Host.LogConfig.Type, LogJSON) }

// logFiles says where the container's log is, if it keeps one. One of Docker's format has Docker's name.
func (c *Container) logFiles() (logfile.Files, error) {
	name := "container.log"
	if c.logFormat() == LogJSON {
		name = c.ID + "-json.log"
	}
	return c.Settings.Host.LogConfig.files(filepath.Join(c.Dir(), name))
}

// openLog opens the log of a container that this process runs; nil if it keeps none. One that is removed at its end
// keeps none: nobody could read it but while it runs.
func (c *Container) openLog() (logfile.Writer, error) {
	files, err := c.logFiles()
	if err != nil || c.logFormat() == LogNone || c.Settings.Host.AutoRemove {
		return nil, err
	}
	return logfile.Create(c.logFormat(), files)
}

// parseSize reads a number of bytes, with k, m or g for powers of 1024, as Docker does.
func parseSize(text string) (int64, error) {
	lower := strings.TrimSuffix(strings.ToLower(text), "b")
	unit := int64(1)
	for suffix, factor := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40} {
		if number, found := strings.CutSuffix(lower, suffix); found {
			lower, unit = number, factor
			break
		}
	}
	number, err := strconv.ParseFloat(lower, 64)
	if err != nil || number <= 0 || number*float64(unit) >= 1<<62 {
		return 0, fmt.Errorf("%w: size %q: use a number of bytes, or one with k, m or g", ErrOption, text)
	}
	return int64(number * float64(unit)), nil
}
