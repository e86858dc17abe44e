package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "embed" // the programs
	"fmt"
	"io"
	"sync"

	"github.com/runnel-project/runnel/internal/runner/container/agent/frame"
)

// The program for each architecture, made by `make agent` out of the folder program: see ADR 19.
var (
	//go:embed program_amd64.gz
	programAMD64 []byte
	//go:embed program_arm64.gz
	programARM64 []byte

	archives = map[string]func() ([]byte, error){
		"linux/amd64": sync.OnceValues(func() ([]byte, error) { return archive(programAMD64) }),
		"linux/arm64": sync.OnceValues(func() ([]byte, error) { return archive(programARM64) }),
	}
)

// Runs reports whether there is an agent for images of a platform, as linux/amd64.
func Runs(os, architecture string) bool { return archives[os+"/"+architecture] != nil }

// Program returns a tar with the agent for a platform, to be unpacked at frame.Root before the container is started.
// It must not be changed.
func Program(os, architecture string) ([]byte, error) {
	make := archives[os+"/"+architecture]
	if make == nil {
		return nil, fmt.Errorf("agent: there is none for %s/%s", os, architecture)
	}
	return make()
}

func archive(packed []byte) ([]byte, error) {
	program, err := unpacked(packed)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: frame.Program, Mode: 0o555, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	return out.Bytes(), w.Close()
}

func unpacked(packed []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	program, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return program, nil
}
