package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// postgresPrograms is the directory of Debian's newest server.
func postgresPrograms() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		if path, err := exec.LookPath("postgres"); err == nil {
			return filepath.Dir(path), nil
		}
		return "", &missingError{"postgres", "postgresql"}
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4])
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// postgresVersion is of `postgres --version`: "postgres (PostgreSQL) 15.18 (Debian …)".
func postgresVersion() string {
	dir, err := postgresPrograms()
	if err != nil {
		return "PostgreSQL"
	}
	if words := strings.Fields(said(filepath.Join(dir, "postgres"), "--version")); len(words) > 2 {
		return "PostgreSQL " + words[2]
	}
	return "PostgreSQL of an unknown version"
}

// postgresUser is whom the server runs as: it refuses root. Nil is this account.
func postgresUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, errors.New("PostgreSQL refuses to run as root, and there is neither an account postgres nor nobody: run as another user")
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

// preparePostgres makes a cluster with a password.
func preparePostgres(ctx context.Context, s *system) error {
	programs, err := postgresPrograms()
	if err != nil {
		return err
	}
	s.program = filepath.Join(programs, "postgres")
	s.password = newPassword()
	who, err := postgresUser()
	if err != nil {
		return err
	}
	// A directory that its user can reach, whoever made the one of this program.
	data, err := os.MkdirTemp("", "runnel-rivals-pg-")
	if err != nil {
		return err
	}
	s.data = data
	secret := filepath.Join(data, "password")
	if err := os.WriteFile(secret, []byte(s.password), 0o600); err != nil {
		return err
	}
	if who != nil {
		if err := errors.Join(os.Chown(data, int(who.Uid), int(who.Gid)), os.Chown(secret, int(who.Uid), int(who.Gid))); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "initdb"), "-D", filepath.Join(data, "cluster"), "-U", "postgres",
		"-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8", "--locale", "C")
	cmd.Dir = data
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// servePostgres starts the server as it comes, but for what settings says.
func servePostgres(ctx context.Context, s *system, settings ...string) (string, *child, error) {
	var err error
	if s.port, err = freePort(); err != nil {
		return "", nil, err
	}
	who, err := postgresUser()
	if err != nil {
		return "", nil, err
	}
	args := []string{"-D", filepath.Join(s.data, "cluster"), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-k", s.data}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(s.program, args...)
	cmd.Dir = s.data
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	c, err := spawn("postgres", cmd, syscall.SIGINT) // a fast shutdown
	if err != nil {
		return "", nil, err
	}
	address := fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres", s.password, s.port)
	return address, c, answers(ctx, c, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, address)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}
