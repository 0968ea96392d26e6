package cluster

import (
	"fmt"
	"strings"

	"sigs.k8s.io/kind/pkg/log"
)

// logger passes on what kind tells its users.
type logger struct{ progress Progress }

func (l logger) Warn(message string)               { l.Info(message) }
func (l logger) Warnf(format string, args ...any)  { l.Infof(format, args...) }
func (l logger) Error(message string)              { l.Info(message) }
func (l logger) Errorf(format string, args ...any) { l.Infof(format, args...) }
func (l logger) Infof(format string, args ...any)  { l.Info(fmt.Sprintf(format, args...)) }
func (l logger) Enabled() bool                     { return true }
func (l logger) Info(message string) {
	if message = strings.TrimSpace(message); message != "" {
		l.progress("%s", message)
	}
}

func (l logger) V(level log.Level) log.InfoLogger {
	if level > 0 {
		return log.NoopInfoLogger{}
	}
	return l
}
