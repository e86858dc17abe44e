// Command load packs a worker's program into an image and loads it into the
// engine of this machine, or writes it to a file for another: make image.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/docker/docker/client"

	"github.com/runnel-project/runnel/integration/image"
)

func main() {
	name := flag.String("name", "runnel/worker:latest", "what the image is called")
	out := flag.String("o", "", "write the image to `FILE` (for docker load, podman load, ctr image import)")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: load [-name NAME] [-o FILE] PROGRAM")
		os.Exit(2)
	}
	if err := load(flag.Arg(0), *name, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func load(program, name, out string) error {
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	worker := image.Worker(name, text)
	if out != "" {
		archive, err := worker.Archive()
		if err != nil {
			return err
		}
		return os.WriteFile(out, archive, 0o644)
	}
	api, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := worker.Load(ctx, api); err != nil {
		if client.IsErrConnectionFailed(err) {
			return fmt.Errorf("%w: start an engine, or write a file for one elsewhere with make image OUT=FILE", err)
		}
		return err
	}
	fmt.Println(name)
	return nil
}
