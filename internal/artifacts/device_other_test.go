//go:build unix && !linux

package artifacts_test

import "errors"

func mknod(string) error { return errors.ErrUnsupported }
