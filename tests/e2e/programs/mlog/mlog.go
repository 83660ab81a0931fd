// Package mlog stands in for the module of this name, which the driver logs with and which the Go module proxy does not
// serve. It sets klog's level and passes messages on.
package mlog

import (
	"context"
	"flag"
	"strconv"

	"k8s.io/klog/v2"
)

// LogFormat is taken and not heeded: everything is text.
type LogFormat string

// LogLevel is a name for a level.
type LogLevel string

// KlogLevel is a level as klog counts.
type KlogLevel = klog.Level

// The formats that the driver knows.
const (
	FormatText LogFormat = "text"
	FormatJSON LogFormat = "json"
)

// Setup returns what writes out messages at the end.
func Setup() func() { return klog.Flush }

// ValidateAndSetKlogLevelAndFormatGlobally sets the level.
func ValidateAndSetKlogLevelAndFormatGlobally(_ context.Context, level KlogLevel, _ LogFormat) error {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	return flags.Set("v", strconv.Itoa(int(level)))
}

// Error logs an error.
func Error(message string, err error, pairs ...any) { klog.ErrorSDepth(1, err, message, pairs...) }

// Fatal logs an error and ends the process.
func Fatal(err error) { klog.FatalDepth(1, err) }
