package engine

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tarnfs/tarn/monitor"
)

// LogConfig says where a container's output goes, with Docker's names.
type LogConfig struct {
	Type   string            // LogJSON or LogNone
	Config map[string]string // "max-size" in bytes, with k, m or g; "max-file"
}

// Kinds of logs.
const (
	LogJSON = "json-file"
	LogNone = "none" // nothing is kept
)

// ParseLogConfig reads what --log-driver and --log-opt take; "" is LogJSON.
func ParseLogConfig(driver string, options []string) (LogConfig, error) {
	l := LogConfig{Type: driver, Config: make(map[string]string)}
	switch driver {
	case "":
		l.Type = LogJSON
	case LogJSON, LogNone:
	default:
		return l, fmt.Errorf("%w: log driver %q: use json-file or none", ErrOption, driver)
	}
	for _, option := range options {
		key, value, found := strings.Cut(option, "=")
		if !found || l.Type == LogNone {
			return l, fmt.Errorf("%w: log option %q: use max-size=SIZE and max-file=NUMBER, with json-file", ErrOption, option)
		}
		l.Config[key] = value
	}
	return l, l.fill(&monitor.Config{}, "")
}

// fill says in a monitor's terms what is to be done; path is where the log is, if there is one.
func (l *LogConfig) fill(cfg *monitor.Config, path string) (err error) {
	if l.Type == LogNone {
		return nil
	}
	cfg.Log, cfg.MaxFile = path, 1
	for key, value := range l.Config {
		switch key {
		case "max-size":
			cfg.MaxSize, err = parseSize(value)
		case "max-file":
			if cfg.MaxFile, err = strconv.Atoi(value); err == nil && cfg.MaxFile < 1 {
				err = strconv.ErrRange
			}
		default:
			return fmt.Errorf("%w: log option %q: use max-size and max-file", ErrOption, key)
		}
		if err != nil {
			return fmt.Errorf("%w: log option %s=%s: %w", ErrOption, key, value, err)
		}
	}
	if cfg.MaxFile > 1 && cfg.MaxSize == 0 {
		return fmt.Errorf("%w: log option max-file: it needs max-size", ErrOption)
	}
	return nil
}

// openLog opens the log of a container that this process runs; nil if it keeps none. One that is removed at its end
// keeps none: nobody could read it but while it runs.
func (c *Container) openLog() (*monitor.Log, error) {
	cfg := &monitor.Config{}
	if err := c.Settings.Host.LogConfig.fill(cfg, c.logPath()); err != nil || cfg.Log == "" || c.Settings.Host.AutoRemove {
		return nil, err
	}
	return monitor.OpenLog(cfg.Log, cfg.MaxSize, cfg.MaxFile)
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
