package artifacts_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/runnel-project/runnel/internal/artifacts"
	"github.com/runnel-project/runnel/internal/contracts"
)

func readInput(t testing.TB, s *artifacts.Store, in contracts.Input) string {
	t.Helper()
	r, err := s.OpenInput(t.Context(), in)
	must(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	must(t, err)
	return string(data)
}

func TestInputsComeBackAsTheyWere(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	for name, data := range map[string]string{
		"one byte":             "x",
		"all that memory took": random(1 << 20),
		"one more":             random(1<<20 + 1),
		"3 MB":                 random(3_000_000),
		"more than a part":     random(artifacts.PartBytes + 5),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "stdin")
			must(t, os.WriteFile(path, []byte("skipped "+data), 0o600))
			file, err := os.Open(path)
			must(t, err)
			defer file.Close()
			_, err = file.Seek(int64(len("skipped ")), io.SeekStart)
			must(t, err)
			pipe, w, err := os.Pipe() // an *os.File that cannot seek
			must(t, err)
			defer pipe.Close()
			go func() {
				io.WriteString(w, data)
				w.Close()
			}()
			for how, r := range map[string]io.Reader{
				"a file": file, "a pipe": pipe, "memory": strings.NewReader(data),
				"a slow reader": iotest.DataErrReader(iotest.HalfReader(strings.NewReader(data))),
			} {
				in, err := s.PutInput(t.Context(), r)
				if err != nil {
					t.Fatalf("PutInput() of %s = %v", how, err)
				}
				if in.Size != int64(len(data)) || in.SHA256 != hexSum(data) || !strings.HasSuffix(in.Blob, "."+in.SHA256) || in.Data != nil {
					t.Errorf("PutInput() of %s = %+v, want %d bytes with SHA-256 %s", how, in, len(data), hexSum(data))
				}
				inv := contracts.Invocation{ID: "a", Kind: contracts.KindNoop, Stdin: &in}
				must(t, inv.Validate())
				if readInput(t, s, in) != data {
					t.Errorf("OpenInput() of %s reads other content", how)
				}
			}
		})
	}
	if n := len(blobs(t, js, inputBucket)); n != 5 {
		t.Errorf("there are %d blobs of 5 contents", n)
	}
	if names, _ := os.ReadDir(temp); len(names) > 0 {
		t.Errorf("temporary files were left: %v", names)
	}
	config, err := js.Stream(t.Context(), "OBJ_"+inputBucket)
	must(t, err)
	if age := config.CachedInfo().Config.MaxAge; age != artifacts.DefaultInputTTL {
		t.Errorf("inputs are kept for %v, want %v", age, artifacts.DefaultInputTTL)
	}
}

func TestAnEmptyInputIsNotStored(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	in, err := s.PutInput(t.Context(), strings.NewReader(""))
	if err != nil || in.Blob != "" || in.Data != nil {
		t.Errorf("PutInput() of nothing = %+v, %v; want an empty input", in, err)
	}
	if got := readInput(t, s, in); got != "" {
		t.Errorf("OpenInput() reads %q, want nothing", got)
	}
	if got := readInput(t, s, contracts.Input{Data: []byte("inline")}); got != "inline" {
		t.Errorf("OpenInput() reads %q, want what is in the message", got)
	}
	if _, err := js.Stream(t.Context(), "OBJ_"+inputBucket); err == nil {
		t.Error("the bucket was made for nothing")
	}
}

// The spool holds what may be a secret.
func TestTheSpoolIsThisUsersAlone(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	data := random(2 << 20)
	in, err := s.PutInput(t.Context(), io.MultiReader(strings.NewReader(data), seen(func() {
		names, err := os.ReadDir(temp)
		if err != nil || len(names) != 1 {
			t.Errorf("while it is read there are %v, %v; want one temporary file", names, err)
			return
		}
		if info, err := names[0].Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("the temporary file has mode %v, %v; want 0600", info.Mode(), err)
		}
	})))
	must(t, err)
	if readInput(t, s, in) != data {
		t.Error("OpenInput() reads other content")
	}
	t.Setenv("TMPDIR", filepath.Join(temp, "gone"))
	if _, err := s.PutInput(t.Context(), seen(nil)); err != nil {
		t.Errorf("PutInput() of a small input = %v, want no use of a temporary file", err)
	}
	if _, err := s.PutInput(t.Context(), io.MultiReader(strings.NewReader(data), seen(nil))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("PutInput() without a place for temporary files = %v, want that it does not exist", err)
	}
}

// seen reads as nothing, and calls f.
type seen func()

func (s seen) Read([]byte) (int, error) {
	if s != nil {
		s()
	}
	return 0, io.EOF
}

// changing is another content each time that it is read from the beginning.
type changing struct {
	*strings.Reader
	next []string
}

func (c *changing) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart && len(c.next) > 0 {
		c.Reader.Reset(c.next[0])
		c.next = c.next[1:]
	}
	return c.Reader.Seek(offset, whence)
}

func TestAnInputThatCannotBeRead(t *testing.T) {
	s, js := open(t, artifacts.Config{})
	data := random(2 << 20)
	broken := errors.New("the disk is on fire")
	for name, tt := range map[string]struct {
		r    io.Reader
		want error
	}{
		"fails at once":  {iotest.ErrReader(broken), broken},
		"fails later":    {io.MultiReader(strings.NewReader(data), iotest.ErrReader(broken)), broken},
		"other content":  {&changing{strings.NewReader(data), []string{data[1:] + "x"}}, artifacts.ErrChanged},
		"became shorter": {&changing{strings.NewReader(data), []string{data[1:]}}, artifacts.ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			if in, err := s.PutInput(t.Context(), tt.r); !errors.Is(err, tt.want) || in.Blob != "" {
				t.Errorf("PutInput() = %+v, %v; want %v", in, err, tt.want)
			}
		})
	}
	// What grew is what it was when it was hashed.
	in, err := s.PutInput(t.Context(), &changing{strings.NewReader(data), []string{data + "more"}})
	must(t, err)
	if readInput(t, s, in) != data {
		t.Error("OpenInput() reads other content")
	}
	if got := blobs(t, js, inputBucket); !slices.Equal(got, []string{in.Blob}) || chunks(t, js, inputBucket) != 16 {
		t.Errorf("there are %v with %d chunks, want one blob of 16", got, chunks(t, js, inputBucket))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if _, err := s.PutInput(ctx, strings.NewReader("x")); !errors.Is(err, broken) {
		t.Errorf("PutInput() after the end = %v, want %v", err, broken)
	}
}

func TestOpenInputChecksWhatItIsTold(t *testing.T) {
	s, _ := open(t, artifacts.Config{})
	in, err := s.PutInput(t.Context(), strings.NewReader("content"))
	must(t, err)
	for name, tt := range map[string]struct {
		change func(*contracts.Input)
		want   error
	}{
		"no name":      {func(in *contracts.Input) { in.Blob = "../x" }, artifacts.ErrManifest},
		"other name":   {func(in *contracts.Input) { in.Blob = "1." + sum }, artifacts.ErrManifest},
		"other digest": {func(in *contracts.Input) { in.SHA256 = sum }, artifacts.ErrManifest},
		"other size":   {func(in *contracts.Input) { in.Size-- }, artifacts.ErrCorrupt},
		"other epoch":  {func(in *contracts.Input) { in.Blob = "1." + in.SHA256 }, artifacts.ErrNoBlob},
	} {
		t.Run(name, func(t *testing.T) {
			other := in
			tt.change(&other)
			if _, err := s.OpenInput(t.Context(), other); !errors.Is(err, tt.want) {
				t.Errorf("OpenInput() = %v, want %v", err, tt.want)
			}
		})
	}
}
