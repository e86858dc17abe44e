// Package image says what is in the image of a worker, for make image and for the tests that run workers in containers.
package image

import (
	"fmt"
	"os"

	"github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/runnel-project/runnel/internal/runner/container/scratch"
)

const (
	// user is nobody in particular: what a worker runs has its rights.
	user = 65532
	home = "home/worker"
)

// authorities is where Go looks first for the certificates that it trusts.
const authorities = "etc/ssl/certs/ca-certificates.crt"

// Worker is the image of a worker, out of the static program that cmd/worker is.
func Worker(name string, program []byte) scratch.Image {
	i := scratch.Image{
		Name: name,
		Config: v1.ImageConfig{
			User: fmt.Sprint(user), WorkingDir: "/" + home, Entrypoint: []string{"/worker"}, Cmd: []string{"start"},
			Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin:/", "HOME=/" + home},
			Labels: map[string]string{
				"org.opencontainers.image.title":    "Runnel worker",
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		},
		Files: []scratch.File{
			{Name: "worker", Mode: 0o755, Data: program},
			{Name: "tmp/", Mode: 0o1777},
			{Name: home + "/", Mode: 0o700, Owner: user},
			{Name: "etc/passwd", Mode: 0o644, Data: fmt.Appendf(nil, "root:x:0:0::/:/worker\nworker:x:%d:%[1]d::/%s:/worker\n", user, home)},
			{Name: "etc/group", Mode: 0o644, Data: fmt.Appendf(nil, "root:x:0:\nworker:x:%d:\n", user)},
		},
	}
	// Requests to https need them. A machine without them makes an image without them.
	if trusted, err := os.ReadFile("/" + authorities); err == nil {
		i.Files = append(i.Files, scratch.File{Name: authorities, Mode: 0o644, Data: trusted})
	}
	return i
}
