package enginetest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"

	"github.com/runnel-project/runnel/internal/runner/container/scratch"
)

// What a killed test process left goes with the next one's start, and nothing of one that may live.
func TestImagesOfDeadProcessesGo(t *testing.T) {
	api := Client(t)
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	names := map[string]string{}
	for _, of := range []string{"dead", "living", "unknown"} {
		pid := fmt.Sprintf("%s%d", of, os.Getpid())
		if of != "unknown" {
			lock := locked(lockOf(pid), os.O_CREATE)
			if lock == nil {
				t.Fatal("no lock")
			}
			if of == "dead" {
				lock.Close()
			} else {
				defer lock.Close()
			}
		}
		names[of] = repository + ":test-" + pid
		if err := (scratch.Image{Name: names[of], Files: []scratch.File{{Name: "file", Data: []byte(pid)}}}).Load(ctx, api); err != nil {
			t.Fatal(err)
		}
	}
	ours, err := claim(ctx, api)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	for of, name := range names {
		_, err := api.ImageRemove(ctx, name, image.RemoveOptions{})
		if gone := err != nil; gone != (of == "dead") {
			t.Errorf("the image of one that is %s: gone %v, %v", of, gone, err)
		}
	}
}
