package ociruntime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tarnfs/tarn/container"
)

// logger reports errors: to the standard error, and to a file as runc
// does, which is where engines look for it.
type logger struct {
	path string
	json bool
}

// entry is a line of a log in JSON, as logrus writes it.
type entry struct {
	Level   string    `json:"level"`
	Message string    `json:"msg"`
	Time    time.Time `json:"time"`
}

func (l *logger) setFormat(format string) error {
	switch format {
	case "text":
	case "json":
		l.json = true
	default:
		return fmt.Errorf("unknown log format %q: want text or json", format)
	}
	return nil
}

// fail reports the error that a command ends with.
func (l *logger) fail(err error) { l.write("error", oneLine(err)) }

// warn reports an error that changes nothing; nil is none.
func (l *logger) warn(err error) {
	if err != nil {
		l.write("warning", oneLine(err))
	}
}

func (l *logger) write(level, text string) {
	if level == "error" {
		fmt.Fprintf(os.Stderr, "%s: %s\n", Name, text)
	} else {
		fmt.Fprintf(os.Stderr, "%s: %s: %s\n", Name, level, text)
	}
	if l.path == "" {
		return
	}
	e := entry{Level: level, Message: text, Time: time.Now()}
	line := fmt.Appendf(nil, "time=%q level=%s msg=%q\n", e.Time.Format(time.RFC3339), level, text)
	if l.json {
		line, _ = json.Marshal(e) // it has nothing that could fail
		line = append(line, '\n')
	}
	if err := appendFile(l.path, line); err != nil {
		fmt.Fprintf(os.Stderr, "%s: write the log: %v\n", Name, err)
	}
}

func appendFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// explain says of a program that cannot be executed what runc says: docker and podman tell by these
// words which exit status to give.
func explain(err error) error {
	switch {
	case errors.Is(err, container.ErrNotFound) && strings.Contains(err.Error(), "in PATH"):
		return fmt.Errorf("%w (executable file not found in $PATH)", err)
	case errors.Is(err, container.ErrNotFound):
		return fmt.Errorf("%w (no such file or directory)", err)
	case errors.Is(err, container.ErrNotExecutable) && !strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("%w (permission denied)", err)
	}
	return err
}
