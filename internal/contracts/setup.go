package contracts

import "strings"

// Setup prepares the image of a container once: what it leaves in the image's file system is there for the command, and
// is kept for the next invocation of the tenant with the same setup on the same image (S7–S9). It runs in a container of its
// own under the same limits and the same policy, and sees nothing of the invocation: not its environment, not its workspace, no mounts.
type Setup struct {
	// Command is an argument vector; no shell is added, and the image's entrypoint does not count.
	Command []string `json:"command"`
	// Environment is what it gets beside the image's own. It stays readable in the image that is kept: no place for secrets.
	Environment map[string]string `json:"environment,omitempty"`
	// User is UID, UID:GID, or names that the image knows; "" is 0:0, for the files of an image are mostly root's.
	User string `json:"user,omitempty"`
	// Network is what the command's may be; "" is none.
	Network string `json:"network,omitempty"`
	// TimeoutSeconds bounds the wait for it, beside the invocation's own limit; 0 leaves that alone.
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`
}

func (p *problems) setup(s *Setup) {
	if s == nil {
		return
	}
	if len(s.Command) == 0 {
		p.add("container.setup.command", "must not be empty")
	} else if s.Command[0] == "" {
		p.add("container.setup.command[0]", "must not be empty: it names the program")
	}
	p.texts("container.setup.command", s.Command, MaxMessageBytes)
	p.variables("container.setup.environment", s.Environment)
	p.user("container.setup.user", s.User)
	p.pattern("container.setup.network", s.Network, networkPattern, "is not the name of a network")
	p.seconds("container.setup.timeout_seconds", s.TimeoutSeconds)
}

// variables checks an environment.
func (p *problems) variables(field string, env map[string]string) {
	p.textMap(field, env, MaxPathBytes, MaxMessageBytes, func(name string) string {
		switch {
		case strings.Contains(name, "="):
			return "the name must not contain '='"
		case strings.HasPrefix(name, ReservedEnvironment):
			return "names that begin with " + ReservedEnvironment + " are reserved"
		}
		return ""
	})
}

// size returns no less than what s adds to an encoding.
func (s *Setup) size() int {
	if s == nil {
		return 0
	}
	n := 128 + len(s.User) + len(s.Network)
	for _, arg := range s.Command {
		n += len(arg) + 5
	}
	for k, v := range s.Environment {
		n += len(k) + len(v) + 10
	}
	return n
}
