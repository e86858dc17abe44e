package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

//go:embed celery_part.py
var celeryPart []byte

// celeryPython is Debian's, which has Debian's packages.
const celeryPython = "/usr/bin/python3"

// celeryPrefetch is how many tasks the worker has in hand for each of its processes: Celery's guide has 64 or 128 for short ones.
const celeryPrefetch = 64

func celerySystem() *system {
	return &system{
		name: "celery", fewer: 5,
		versions: "celery " + said(celeryPython, "-c", "import celery; print(celery.__version__)") + ", " + redisVersion(),
		settings: []string{
			redisSettings + "; broker and result backend",
			"prefork, acks_late and reject_on_worker_lost",
			fmt.Sprintf("worker_prefetch_multiplier %d (default 4)", celeryPrefetch),
			"no gossip, mingle, heartbeat",
			"results pushed (Redis pub/sub)",
		},
		recovery: "visibility_timeout 1 h (default; it must be longer than any job)",
		prepare:  prepareCelery,
		serve:    serveRedis,
		worker: func(s *system, address string, slots int) ([]*child, error) {
			c, err := s.python(address, syscall.SIGTERM, "work", strconv.Itoa(slots))
			return []*child{c}, err
		},
		submitter: func(s *system, address string) (*child, error) { return s.python(address, 0, "submit") },
	}
}

func prepareCelery(ctx context.Context, s *system) (err error) {
	if s.program, err = redisServer(); err != nil {
		return err
	}
	s.password = newPassword()
	if err := exec.CommandContext(ctx, celeryPython, "-c", "import celery, redis").Run(); err != nil {
		return &missingError{"Celery with its Redis client (for " + celeryPython + ")", "python3-celery python3-redis"}
	}
	return os.WriteFile(filepath.Join(s.dir, "celery_part.py"), celeryPart, 0o600)
}

func (s *system) python(address string, stop syscall.Signal, args ...string) (*child, error) {
	cmd := exec.Command(celeryPython, append([]string{filepath.Join(s.dir, "celery_part.py")}, args...)...)
	cmd.Env = append(s.environment(address), "RIVALS_PREFETCH="+strconv.Itoa(celeryPrefetch), "RIVALS_NAP="+strconv.Itoa(napSeconds),
		"PYTHONDONTWRITEBYTECODE=1")
	cmd.Dir = s.dir
	return spawn("celery's "+args[0], cmd, stop)
}
