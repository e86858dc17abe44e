package subprocess

// GuardPID returns the id of the guard process.
func (r *Runner) GuardPID() int {
	switch rung := r.rung.(type) {
	case *cgroups:
		return rung.guard.PID()
	case *subreaper:
		return rung.guard.PID()
	}
	return 0
}

// CgroupRoot returns the worker's cgroup directory, "" on another rung.
func (r *Runner) CgroupRoot() string {
	if rung, ok := r.rung.(*cgroups); ok {
		return rung.root.Path()
	}
	return ""
}
