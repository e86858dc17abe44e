// Command job is what the integration tests have workers run: it prints in a
// form that the checker can verify, notes in a ledger that it ran, and
// misbehaves on request.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/runnel-project/runnel/integration/ledger"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: job count|flood|drip|daemon|hold|hydra [flags]"))
	}
	verbs := map[string]func([]string) error{"count": count, "flood": flood, "drip": drip, "daemon": daemon, "hold": hold, "hydra": hydra}
	verb, ok := verbs[os.Args[1]]
	if !ok {
		fail(fmt.Errorf("no verb %q", os.Args[1]))
	}
	if err := verb(os.Args[2:]); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "job:", err)
	os.Exit(99)
}

// note writes this process into the ledger under token, or a new one, and returns it.
func note(dir, tenant, token string) (string, error) {
	if token == "" {
		var b [8]byte
		rand.Read(b[:])
		token = hex.EncodeToString(b[:])
	}
	if dir == "" {
		return token, nil
	}
	return token, ledger.Sign(dir, ledger.Entry{Tenant: tenant, ID: os.Getenv("RUNNEL_INVOCATION_ID"), Token: token, Started: time.Now()})
}

// count prints the run token and a counter, as package check describes, on one stream or both.
func count(args []string) error {
	flags := flag.NewFlagSet("count", flag.ExitOnError)
	dir := flags.String("ledger", "", "directory to note this process in")
	tenant := flags.String("tenant", "default", "whose it is")
	n := flags.Int("n", 3, "lines")
	every := flags.Duration("every", 0, "pause after each line")
	both := flags.Bool("both", false, "also on stderr")
	exit := flags.Int("exit", 0, "exit code")
	failFirst := flags.Int("fail-first", 0, "exit with 1 in the first so many attempts")
	files := flags.Int("files", 0, "artifacts to leave")
	fileBytes := flags.Int("file-bytes", 1700, "size of each artifact")
	trap := flags.Bool("trap", false, "print a line on TERM and end")
	spawn := flags.Bool("daemon", false, "leave a child that double-forks and calls setsid")
	_ = flags.Parse(args)
	token, err := note(*dir, *tenant, "")
	if err != nil {
		return err
	}
	if *spawn {
		if err := exec.Command(os.Args[0], "daemon", "-ledger", *dir, "-tenant", *tenant, "-token", token).Run(); err != nil {
			return err
		}
	}
	stop := make(chan os.Signal, 1)
	if *trap {
		signal.Notify(stop, syscall.SIGTERM)
	}
	outs := []io.Writer{os.Stdout}
	if *both {
		outs = append(outs, os.Stderr)
	}
	say := func(format string, a ...any) error {
		for _, out := range outs {
			if _, err := fmt.Fprintf(out, format, a...); err != nil {
				return err
			}
		}
		return nil
	}
	if err := say("run %s %s/%s\n", token, *tenant, os.Getenv("RUNNEL_INVOCATION_ID")); err != nil {
		return err
	}
	for i := range *n {
		if err := say("%s %d\n", token, i+1); err != nil {
			return err
		}
		if *every > 0 {
			select {
			case <-stop:
				fmt.Println("trapped")
				return nil
			case <-time.After(*every):
			}
		}
	}
	for i := range *files {
		name := filepath.Join(os.Getenv("RUNNEL_ARTIFACTS"), fmt.Sprintf("file%d", i))
		if err := os.WriteFile(name, []byte(strings.Repeat(token+"\n", *fileBytes/17)), 0o644); err != nil {
			return err
		}
	}
	if err := say("%s end %d\n", token, *n); err != nil {
		return err
	}
	var attempt int
	if _, err := fmt.Sscan(os.Getenv("RUNNEL_ATTEMPT"), &attempt); err == nil && attempt <= *failFirst {
		os.Exit(1)
	}
	os.Exit(*exit)
	return nil
}

// flood prints bytes that no line ends in and that can be told from one another by their place.
func flood(args []string) error {
	flags := flag.NewFlagSet("flood", flag.ExitOnError)
	size := flags.Int64("bytes", 1<<20, "how many")
	_ = flags.Parse(args)
	block := make([]byte, 1<<20)
	for at := int64(0); at < *size; at += int64(len(block)) {
		for i := range block {
			block[i] = Byte(at + int64(i))
		}
		if _, err := os.Stdout.Write(block[:min(int64(len(block)), *size-at)]); err != nil {
			return err
		}
	}
	return nil
}

// Byte is what flood prints at a place: no two stretches of some length are equal.
func Byte(at int64) byte {
	x := uint64(at>>3)*0x9e3779b97f4a7c15 + 0x1234567
	x ^= x >> 29
	return byte(x >> (8 * uint(at&7)))
}

// drip prints one byte at a time.
func drip(args []string) error {
	flags := flag.NewFlagSet("drip", flag.ExitOnError)
	every := flags.Duration("every", 19*time.Millisecond, "pause")
	during := flags.Duration("for", time.Minute, "how long")
	_ = flags.Parse(args)
	tick := time.NewTicker(*every)
	defer tick.Stop()
	for end := time.Now().Add(*during); time.Now().Before(end); <-tick.C {
		if _, err := os.Stdout.Write([]byte{'x'}); err != nil {
			return err
		}
	}
	return nil
}

// daemon leaves a process in a session of its own, whose parent is gone.
func daemon(args []string) error {
	cmd := exec.Command(os.Args[0], append([]string{"hold"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// With its own descriptors it would keep the job's pipes open; a real daemon closes them.
	ready, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = ready.Read(make([]byte, 1)) // it is in the ledger
	return err
}

// hold notes itself and stays, silent.
func hold(args []string) error {
	flags := flag.NewFlagSet("hold", flag.ExitOnError)
	dir := flags.String("ledger", "", "directory to note this process in")
	tenant := flags.String("tenant", "default", "whose it is")
	token := flags.String("token", "", "token of the job whose process this is")
	_ = flags.Parse(args)
	if _, err := note(*dir, *tenant, *token); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGPIPE)
	fmt.Println()
	time.Sleep(time.Hour)
	return nil
}

// hydra is never one process for long: each starts the next in a session of its own and ends.
// All of them hold one lock on the file at -alive, so whoever gets that lock knows that none is left.
// Left alone it ends after so many generations.
func hydra(args []string) error {
	flags := flag.NewFlagSet("hydra", flag.ExitOnError)
	alive := flags.String("alive", "", "file that they hold a lock on")
	left := flags.Int("generations", 5000, "how many follow")
	_ = flags.Parse(args)
	lock := os.NewFile(3, *alive) // of the one before
	if *alive != "" {
		var err error
		if lock, err = os.OpenFile(*alive, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			return err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
			return err
		}
	}
	if _, err := lock.Write([]byte{'.'}); err != nil || *left == 0 {
		return err
	}
	cmd := exec.Command(os.Args[0], "hydra", "-generations", fmt.Sprint(*left-1))
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(5 * time.Millisecond) // its pace: both are there for a moment
	return nil
}
