package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/runnel-project/runnel"
)

func TestContainerOfFlags(t *testing.T) { // S3, S16
	for name, c := range map[string]struct {
		args string
		want *runnel.Container
		err  string
	}{
		"none":   {"", nil, ""},
		"strict": {"--image tool", &runnel.Container{Image: "tool"}, ""},
		"said":   {"--image tool --read-only --init=true", &runnel.Container{Image: "tool"}, ""},
		"all": {
			"--image tool --entrypoint /e -u 1:2 --network bridge -p 80 -p 53/udp -m 1GiB --cpus 1.5 --pids-limit 9 --disk 2GiB --tmpfs /a --tmpfs /tmp:size=1MiB -v /s:/t -v /s:/u:rw --platform linux/arm64 --pull always --read-only=false --init=false --warm",
			&runnel.Container{
				Image: "tool", Entrypoint: []string{"/e"}, User: "1:2", Network: "bridge", Ports: []string{"80", "53/udp"}, MemoryBytes: 1 << 30,
				CPUs: 1.5, PIDs: 9, DiskBytes: 2 << 30, Tmpfs: []runnel.Tmpfs{{Path: "/a"}, {Path: "/tmp", SizeBytes: 1 << 20}},
				Mounts:   []runnel.Mount{{Source: "/s", Target: "/t"}, {Source: "/s", Target: "/u", Writable: true}},
				Platform: "linux/arm64", Pull: runnel.PullAlways, WritableRoot: true, NoInit: true, Warm: true,
			}, "",
		},
		"no image for a setup":  {"--setup true", nil, "--image"},
		"no setup":              {"--image tool --setup-timeout 3s", nil, "--setup"},
		"bad setup environment": {"--image tool --setup true --setup-env A", nil, `--setup-env "A"`},
		"setup": {"--image tool --setup one --setup two --setup-timeout 1.5m --setup-user 1 --setup-network bridge --setup-env A=b=c", &runnel.Container{
			Image: "tool", Setup: &runnel.Setup{
				Command: []string{"sh", "-ec", "one\ntwo"}, Environment: map[string]string{"A": "b=c"}, User: "1", Network: "bridge", TimeoutSeconds: 90,
			},
		}, ""},
		"no image":            {"--network bridge", nil, "--image"},
		"no image for a disk": {"--disk 1GiB", nil, "--image"},
		"no image to warm":    {"--warm", nil, "--image"},
		"not read-only":       {"--read-only=false", nil, "--image"},
		"bad volume":          {"--image tool -v /s", nil, `--volume "/s"`},
		"bad mode":            {"--image tool -v /s:/t:z", nil, `--volume "/s:/t:z"`},
		"bad tmpfs":           {"--image tool --tmpfs /a:much", nil, `--tmpfs "/a:much"`},
	} {
		t.Run(name, func(t *testing.T) {
			var f containerFlags
			fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
			f.bind(fs)
			if err := fs.Parse(strings.Fields(c.args)); err != nil {
				t.Fatal(err)
			}
			inv := runnel.Invocation{Kind: runnel.KindSubprocess}
			err := f.set(&inv)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("set() = %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(inv.Container, c.want) {
				t.Errorf("set() makes %+v, %v\nwant %+v", inv.Container, err, c.want)
			}
			if (inv.Kind == runnel.KindContainer) != (c.want != nil) {
				t.Errorf("kind is %s", inv.Kind)
			}
		})
	}
}
