package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

const redisSettings = "Redis: appendonly yes, appendfsync everysec, no snapshots"

// redisServer finds Debian's server.
func redisServer() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", &missingError{"redis-server", "redis-server"}
	}
	return path, nil
}

// redisVersion is of `redis-server --version`: "Redis server v=7.0.15 sha=…".
func redisVersion() string {
	for _, word := range strings.Fields(said("redis-server", "--version")) {
		if v, ok := strings.CutPrefix(word, "v="); ok {
			return "redis-server " + v
		}
	}
	return "redis-server of an unknown version"
}

// serveRedis starts a server with its data in the system's directory and a password, which it reads from standard input.
func serveRedis(ctx context.Context, s *system) (string, *child, error) {
	var err error
	if s.port, err = freePort(); err != nil {
		return "", nil, err
	}
	c, err := spawn("redis-server", exec.Command(s.program, "-"), syscall.SIGTERM)
	if err != nil {
		return "", nil, err
	}
	_, err = fmt.Fprintf(c.in, "bind 127.0.0.1\nport %d\ndir %s\nrequirepass %s\nappendonly yes\nappendfsync everysec\nsave \"\"\nloglevel warning\n", s.port, s.dir, s.password)
	if err != nil {
		return "", c, err
	}
	c.in.Close() // the end of its settings
	client := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", s.port), Password: s.password, MaxRetries: -1})
	defer client.Close()
	err = answers(ctx, c, func(ctx context.Context) error { return client.Ping(ctx).Err() })
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", s.password, s.port), c, err
}

// answers asks a server that has just been started until it answers, at most a minute.
func answers(ctx context.Context, c *child, ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w%s", c.name, err, c.said)
		}
	}
}
