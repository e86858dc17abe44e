package subprocess

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/runnel-project/runnel/internal/contracts"
)

// lookup finds the file of a command over the job's own PATH (T4), as a shell would: a name with a slash is
// taken from dir, an empty or relative element of path as well. If there is nothing to execute it
// returns the outcome: 127 where nothing was found, 126 where what was found cannot be executed (E22).
func lookup(name, dir, path string) (string, *contracts.Outcome) {
	if strings.Contains(name, "/") {
		file := name
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		switch found, why := executable(file); {
		case found:
			return file, nil
		case why != "":
			outcome := miss(126, contracts.ReasonNotExecutable, "cannot execute %s: %s", file, why)
			return "", &outcome
		default:
			outcome := miss(127, contracts.ReasonNotFound, "command not found: %s", file)
			return "", &outcome
		}
	}
	var deniedFile, deniedWhy string
	for _, element := range filepath.SplitList(path) {
		if !filepath.IsAbs(element) {
			element = filepath.Join(dir, element)
		}
		file := filepath.Join(element, name)
		found, why := executable(file)
		if found {
			return file, nil
		}
		if why != "" && deniedFile == "" {
			deniedFile, deniedWhy = file, why
		}
	}
	if deniedFile != "" {
		outcome := miss(126, contracts.ReasonNotExecutable, "cannot execute %s: %s", deniedFile, deniedWhy)
		return "", &outcome
	}
	outcome := miss(127, contracts.ReasonNotFound, "command not found: %s: looked for in PATH %s", name, path)
	return "", &outcome
}

// executable reports whether file can be executed; if not, and something is there, it says why.
func executable(file string) (found bool, why string) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return false, "permission denied"
	case err != nil:
		return false, ""
	case info.IsDir():
		return false, "is a directory"
	case !mayExecute(file, info):
		return false, "permission denied"
	}
	return true, ""
}
