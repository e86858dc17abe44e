package container

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"

	"github.com/runnel-project/runnel/internal/contracts"
)

const (
	notFound      = 127
	notExecutable = 126
	bySignal      = 128 // and its number: how engines and shells say that a signal ended a process
	maxSignal     = 64
	killSignal    = 9
)

// metaOOM says in a result's metadata that the kernel ended a process of the container for want of memory.
const metaOOM = "container.oom_killed"

// ended is the outcome of a container that ran. said is the beginning of its standard error.
func ended(job string, state *container.State, said []byte) contracts.Outcome {
	code := state.ExitCode
	o := contracts.Outcome{Status: contracts.StatusFailed, Reason: contracts.ReasonExit, ExitCode: &code}
	signal := code - bySignal
	switch missed := unstarted(said, code); {
	case missed != nil:
		return *missed
	case code == 0:
		o.Status, o.Reason = contracts.StatusSucceeded, ""
	case state.OOMKilled && signal == killSignal:
		o.Reason, o.ExitCode = contracts.ReasonOOM, new(-killSignal)
		o.Error = "the kernel killed " + job + " for want of memory: it may have more in container.memory_bytes"
	case signal > 0 && signal <= maxSignal:
		o.Reason, o.ExitCode = contracts.ReasonSignal, new(-signal)
	}
	if state.OOMKilled {
		o.Metadata = map[string]string{metaOOM: "true"}
	}
	return o
}

// initSaid is what the engine's init writes when it cannot start its command, and all that it writes then.
var initSaid = regexp.MustCompile(`^\[FATAL tini \([0-9]+\)\] exec (.*) failed: ([A-Za-z ]+)\n$`)

// unstarted recognises a command that the init inside could not start (E22, S12).
func unstarted(said []byte, code int) *contracts.Outcome {
	if code != notFound && code != notExecutable {
		return nil
	}
	m := initSaid.FindSubmatch(said)
	if m == nil {
		return nil
	}
	return unstartable(code, string(m[1]), strings.ToLower(string(m[2])))
}

func unstartable(code int, command, why string) *contracts.Outcome {
	o := contracts.Outcome{Status: contracts.StatusFailed, ExitCode: &code}
	if code == notFound {
		o.Reason, o.Error = contracts.ReasonNotFound, fmt.Sprintf("command not found in the image: %s: %s", command, why)
	} else {
		o.Reason, o.Error = contracts.ReasonNotExecutable, fmt.Sprintf("cannot execute %s: %s", command, why)
	}
	return &o
}

// refused recognises an engine's error of a start that is the command's fault, in the words of runc and crun.
func refused(err error, command string) *contracts.Outcome {
	switch text := err.Error(); {
	case has(text, "docker-init", "chdir to cwd", "mkdir", "mount"):
		return nil
	case !has(text, "executable file not found", "exec: \"", "exec /", "starting container process"):
		return nil
	case has(text, "executable file not found", "no such file or directory"):
		return unstartable(notFound, command, "no such file or directory")
	default:
		for _, why := range []string{"permission denied", "exec format error", "is a directory"} {
			if strings.Contains(text, why) {
				return unstartable(notExecutable, command, why)
			}
		}
		return nil
	}
}

// has reports whether one of the parts is in the text.
func has(text string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// failed is the outcome of work that could not be begun through no fault of the engine's.
func failed(reason contracts.Reason, format string, a ...any) contracts.Outcome {
	return contracts.Outcome{Status: contracts.StatusFailed, Reason: reason, Error: fmt.Sprintf(format, a...)}
}

// head keeps the beginning of what is written to it.
type head struct{ bytes.Buffer }

const headBytes = 1 << 10

func (h *head) note(p []byte) {
	if room := headBytes - h.Len(); room > 0 {
		h.Write(p[:min(len(p), room)])
	}
}
