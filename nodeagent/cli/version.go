package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version, the commit and the date of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), origin())
			return err
		},
	}
}

// build is the origin of the binary.
type build struct {
	// Version is a release, or the Go toolchain's pseudo-version of the commit.
	Version string
	// Commit and Date are the version control's; unknown outside a checkout.
	Commit, Date string
	// Go is the toolchain's version.
	Go string
}

// origin reads the origin that the Go toolchain writes into every binary.
func origin() build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildOf(info)
}

func buildOf(info *debug.BuildInfo) build {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	b := build{
		Version: cmp.Or(info.Main.Version, "unknown"),
		Commit:  cmp.Or(settings["vcs.revision"], "unknown"),
		Date:    cmp.Or(settings["vcs.time"], "unknown"),
		Go:      cmp.Or(info.GoVersion, runtime.Version()),
	}
	if settings["vcs.modified"] == "true" {
		b.Commit += " with local changes"
	}
	return b
}

func (b build) String() string {
	return fmt.Sprintf("patchbay %s\ncommit   %s\ndate     %s\ngo       %s\n", b.Version, b.Commit, b.Date, b.Go)
}
