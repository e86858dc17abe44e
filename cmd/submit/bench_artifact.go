package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel"
	"github.com/runnel-project/runnel/embedded/settings"
)

const (
	// What a job leaves unless told otherwise.
	benchFileBytes = 256 << 20
	benchFiles     = 2000
	smallFileBytes = 4 << 10

	bareBucket = "runnel_bench"
)

func newBenchArtifact(a *app) *cobra.Command {
	f := benchFlags{concurrency: 1}
	bytes, files := settings.Size{Bytes: benchFileBytes}, benchFiles
	cmd := &cobra.Command{
		Use:   "artifact",
		Short: "Files that a job leaves: its end to all of them fetched and verified, one large file and many small ones",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if bytes.Bytes < 0 || files < 0 || files > 10_000 || f.rounds < 0 {
				return errors.New("bench: --bytes and --rounds must not be negative, and --files at most 10000")
			}
			ctx, done := leaving(cmd.Context())
			defer done()
			err := a.benchArtifact(ctx, f, bytes.Bytes, files)
			if err != nil {
				return cmp.Or(context.Cause(ctx), err)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.Var(&bytes, "bytes", "the large file: `SIZE` as 1048576, 64MiB; 0 leaves it out")
	fs.IntVar(&files, "files", files, "small files, of 4 KiB each: `N`; 0 leaves them out")
	f.common(fs)
	return cmd
}

// load is what a job leaves, and how it is fetched.
type load struct {
	work  string
	files int
	bytes int64
	make  string // shell command that makes the files in its directory, other ones each time
	fetch func(ctx context.Context, c *runnel.Client, id, into string) error
}

func (a *app) benchArtifact(ctx context.Context, f benchFlags, bytes int64, files int) error {
	fleet, err := a.benchFleet(ctx, f)
	if err != nil {
		return err
	}
	defer fleet.close()
	small := int64(files) * smallFileBytes
	for _, l := range []load{
		{"artifact", 1, bytes, fmt.Sprintf("head -c %d /dev/urandom >large", bytes), fetchOne},
		{"artifact", files, small, fmt.Sprintf("head -c %d /dev/urandom | split -b %d -a 4 - f", small, smallFileBytes), fetchAll},
	} {
		if l.bytes == 0 {
			continue
		}
		legs := []leg{func(ctx context.Context, _ int) (measurement, error) { return fleet.files(ctx, l) }}
		if f.limit {
			legs = append(legs, func(ctx context.Context, _ int) (measurement, error) { return fleet.filesLimit(ctx, l) })
		}
		rounds, err := f.turns(ctx, l.files, l.files, legs...)
		if err != nil {
			return fmt.Errorf("bench artifact: %w", err)
		}
		if err := a.object(line(benchWork{name: l.work}, f, rounds)); err != nil {
			return err
		}
	}
	return nil
}

func fetchOne(ctx context.Context, c *runnel.Client, id, _ string) error {
	r, err := c.OpenArtifact(ctx, id, "large")
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

func fetchAll(ctx context.Context, c *runnel.Client, id, into string) error {
	_, err := c.Download(ctx, id, into)
	return err
}

// files measures Runnel: from the last word of a job that has made its files to the last of them fetched.
func (fl *fleet) files(ctx context.Context, l load) (measurement, error) {
	m := measurement{n: l.files, bytes: l.bytes}
	// A whole chunk is not held back: when it comes, the job is about to end.
	last := lastWord{left: pumpBytes}
	script := fmt.Sprintf(`cd "$RUNNEL_ARTIFACTS" && %s && %s`, l.make, writes(pumpBytes))
	r, err := fl.client.Run(ctx, runnel.Invocation{Kind: runnel.KindSubprocess, Command: []string{"sh", "-c", script}}, runnel.RunOptions{Stdout: &last})
	if err == nil {
		err = succeeded(r)
	}
	if err == nil && (r.ArtifactCount != l.files || last.at.IsZero()) {
		err = fmt.Errorf("%s left %d files, want %d: %s", r.ID, r.ArtifactCount, l.files, strings.Join(r.Warnings, "; "))
	}
	if err != nil {
		return m, err
	}
	into, err := os.MkdirTemp(fl.dir, "runnel-bench-files-")
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(into) //nolint:errcheck // of a temporary directory, which is removed as a whole where it is ours
	if err := l.fetch(ctx, fl.client, r.ID, into); err != nil {
		return m, err
	}
	m.elapsed = time.Since(last.at)
	return m, fl.dropFiles(ctx, r)
}

// lastWord notes when the last of so many bytes came.
type lastWord struct {
	left int
	at   time.Time
}

func (l *lastWord) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left == 0 {
		l.at = time.Now()
	}
	return len(p), nil
}

// dropFiles removes what a round left.
func (fl *fleet) dropFiles(ctx context.Context, r runnel.Result) error {
	artifacts, err := fl.client.Artifacts(ctx, r.ID)
	if err != nil {
		return err
	}
	js, err := jetstream.New(fl.conns[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	store, err := js.ObjectStore(ctx, strings.ToUpper(fl.app.prefix)+"_ARTIFACTS_"+fl.client.Tenant())
	if err != nil {
		return err
	}
	blobs := map[string]bool{}
	if r.Manifest != "" {
		blobs[r.Manifest] = true
	}
	for _, a := range artifacts {
		for _, s := range a.Segments {
			blobs[s.Blob] = true
		}
	}
	for blob := range blobs {
		if err := store.Delete(ctx, blob); err != nil {
			return fmt.Errorf("remove what the round left, %s: %w", blob, err)
		}
	}
	return nil
}

// filesLimit measures the bare object store, with one object for each file.
func (fl *fleet) filesLimit(ctx context.Context, l load) (measurement, error) {
	m := measurement{n: l.files, bytes: l.bytes}
	js, err := jetstream.New(fl.conns[0])
	if err != nil {
		return m, err
	}
	// Without a deadline of the context's a Get ends after 5 s.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	store, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: bareBucket, TTL: time.Hour, Storage: jetstream.FileStorage})
	if err != nil {
		return m, err
	}
	from, err := os.MkdirTemp(fl.dir, "runnel-bench-files-")
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(from) //nolint:errcheck // see files
	into, err := os.MkdirTemp(fl.dir, "runnel-bench-files-")
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(into) //nolint:errcheck // see files
	cmd := exec.CommandContext(ctx, "sh", "-c", l.make)
	cmd.Dir = from
	if err := cmd.Run(); err != nil {
		return m, fmt.Errorf("make files: %w", err)
	}
	start := time.Now()
	names, err := os.ReadDir(from)
	if err != nil {
		return m, err
	}
	for _, name := range names {
		if err := putBare(ctx, store, filepath.Join(from, name.Name()), name.Name()); err != nil {
			return m, err
		}
	}
	for _, name := range names {
		if err := getBare(ctx, store, name.Name(), into, l.files > 1); err != nil {
			return m, err
		}
	}
	m.elapsed = time.Since(start)
	return m, js.DeleteObjectStore(ctx, bareBucket)
}

func putBare(ctx context.Context, store jetstream.ObjectStore, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = store.Put(ctx, jetstream.ObjectMeta{Name: name}, f)
	return err
}

// getBare reads an object, which verifies it, and writes it to a file where Runnel does so, too.
func getBare(ctx context.Context, store jetstream.ObjectStore, name, into string, write bool) error {
	r, err := store.Get(ctx, name)
	if err != nil {
		return err
	}
	defer r.Close()
	if !write {
		_, err = io.Copy(io.Discard, r)
		return err
	}
	f, err := os.Create(filepath.Join(into, name))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
