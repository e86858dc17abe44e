//go:build !linux

package subprocess_test

import "github.com/runnel-project/runnel/internal/runner/subprocess"

var rungs = []string{subprocess.RungGroup}
