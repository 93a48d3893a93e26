package monitor

import (
	"os"
	"syscall"
	"time"
)

// watchHealth has tarn look after the container's health from time to time. What that finds is none of
// the monitor's business. It ends with the program.
func (m *monitor) watchHealth() {
	started := time.Now()
	for {
		pause := m.cfg.HealthInterval
		if time.Since(started) < m.cfg.HealthStart && m.cfg.HealthStartInterval > 0 {
			pause = m.cfg.HealthStartInterval
		}
		time.Sleep(pause)
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		pid, err := syscall.ForkExec(m.cfg.Health[0], m.cfg.Health[1:], &syscall.ProcAttr{
			Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), null.Fd(), null.Fd()},
		})
		_ = null.Close()
		if err == nil {
			wait(pid)
		}
	}
}
