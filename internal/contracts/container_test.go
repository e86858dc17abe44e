package contracts_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/runnel-project/runnel/internal/contracts"
)

func TestValidateContainer(t *testing.T) { // S16, S21, S22, S24
	many := make([]contracts.Tmpfs, contracts.MaxContainerItems+1)
	for i := range many {
		many[i].Path = "/t" + strings.Repeat("t", i)
	}
	tests := map[string]struct {
		change func(*contracts.Container)
		want   []string
	}{
		"full":      {func(*contracts.Container) {}, nil},
		"image id":  {func(c *contracts.Container) { c.Image = "sha256:" + helloSHA256 }, nil},
		"digest":    {func(c *contracts.Container) { c.Image = "tool@sha256:" + helloSHA256 }, nil},
		"no image":  {func(c *contracts.Container) { c.Image = "" }, []string{`container.image: "" is not the name of an image, of at most 512 bytes`}},
		"flag":      {func(c *contracts.Container) { c.Image = "--privileged" }, []string{`container.image: "--privileged" is not the name of an image, of at most 512 bytes`}},
		"two words": {func(c *contracts.Container) { c.Image = "a b" }, []string{`container.image: "a b" is not the name of an image, of at most 512 bytes`}},
		"entrypoint": {func(c *contracts.Container) { c.Entrypoint = []string{"", "\x00"} }, []string{
			`container.entrypoint[1]: "\x00" contains a NUL byte`, "container.entrypoint[0]: must not be empty: it names the program"}},
		"user names":   {func(c *contracts.Container) { c.User = "app:www-data" }, nil},
		"user shell":   {func(c *contracts.Container) { c.User = "1000;id" }, []string{`container.user: "1000;id" is not UID, UID:GID or names`}},
		"user too far": {func(c *contracts.Container) { c.User = "0:4294967295" }, []string{`container.user: "4294967295" is beyond what an id may be`}},
		"network":      {func(c *contracts.Container) { c.Network = "container:abc" }, []string{`container.network: "container:abc" is not the name of a network`}},
		"ports without network": {func(c *contracts.Container) { c.Network = "" },
			[]string{"container.ports: need a network of the container's own: name one in container.network, bridge for example"}},
		"ports": {func(c *contracts.Container) { c.Ports = []string{"0", "80/sctp", "127.0.0.1:80", "80", "80/tcp"} }, []string{
			"container.ports[0]: 0 is not within 1 to 65535", `container.ports[1]: "80/sctp" is not a port: 8080, 8080/tcp or 53/udp`,
			`container.ports[2]: "127.0.0.1:80" is not a port: 8080, 8080/tcp or 53/udp`, `container.ports[4]: "80/tcp" is there twice`}},
		"limits": {func(c *contracts.Container) { c.MemoryBytes, c.CPUs, c.PIDs = 1, math.NaN(), -1 }, []string{
			"container.memory_bytes: 1 is not within 6.291456e+06 to 4.611686018427388e+18", "container.cpus: NaN is not within 0.01 to 4096",
			"container.pids: -1 is not within 1 to 4.194304e+06"}},
		"disk":       {func(c *contracts.Container) { c.DiskBytes = 1 }, []string{"container.disk_bytes: 1 is not within 1.048576e+06 to 4.611686018427388e+18"}},
		"many tmpfs": {func(c *contracts.Container) { c.Tmpfs = many }, []string{"container.tmpfs: are 65, more than 64"}},
		"places": {func(c *contracts.Container) {
			c.Tmpfs = []contracts.Tmpfs{{Path: "/"}, {Path: "/data", SizeBytes: -1}, {Path: "/a:rw"}}
			c.Mounts = []contracts.Mount{{Source: "data", Target: "/data"}, {Source: "/x/..", Target: "/runnel/artifacts"}, {Source: "/x", Target: "/workspace2"}}
		}, []string{
			"container.tmpfs[0].path: must not be the root", "container.tmpfs[1].size_bytes: -1 is not within 4096 to 4.611686018427388e+18",
			`container.tmpfs[2].path: "/a:rw" is not an absolute path without '.', '..', ',' and ':'`,
			`container.mounts[0].source: "data" is not an absolute path without '.', '..', ',' and ':'`, `container.mounts[0].target: "/data" is there twice`,
			`container.mounts[1].source: "/x/.." is not an absolute path without '.', '..', ',' and ':'`,
			`container.mounts[1].target: "/runnel/artifacts" is within /runnel, which is Runnel's own`}},
		"platform":         {func(c *contracts.Container) { c.Platform = "arm64" }, []string{`container.platform: "arm64" is not OS/ARCHITECTURE[/VARIANT]`}},
		"setup":            {func(c *contracts.Container) { c.Setup = &contracts.Setup{Command: []string{"true"}} }, nil},
		"setup of nothing": {func(c *contracts.Container) { c.Setup = &contracts.Setup{} }, []string{"container.setup.command: must not be empty"}},
		"bad setup": {func(c *contracts.Container) {
			c.Setup = &contracts.Setup{
				Command: []string{"", "\xff"}, Environment: map[string]string{"RUNNEL_RUN": "", "A=B": ""}, User: "a b", Network: "a b", TimeoutSeconds: -1,
			}
		}, []string{
			"container.setup.command[0]: must not be empty: it names the program", `container.setup.command[1]: "\xff" is not UTF-8`,
			`container.setup.environment["A=B"]: the name must not contain '='`,
			`container.setup.environment["RUNNEL_RUN"]: names that begin with RUNNEL_ are reserved`,
			`container.setup.user: "a b" is not UID, UID:GID or names`, `container.setup.network: "a b" is not the name of a network`,
			"container.setup.timeout_seconds: -1 is negative"}},
		"pull": {func(c *contracts.Container) { c.Pull = "sometimes" }, []string{`container.pull: "sometimes" is not missing, always or never`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inv := containerInvocation()
			test.change(inv.Container)
			if got := broken(inv.Validate()); !slices.Equal(got, test.want) {
				t.Errorf("Validate() =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
	inv := containerInvocation()
	inv.Kind = contracts.KindSubprocess
	if got, want := broken(inv.Validate()), "container: goes with kind container only"; !slices.Equal(got, []string{want}) {
		t.Errorf("Validate() of another kind = %q, want %q", got, want)
	}
	inv = containerInvocation()
	inv.Container, inv.Command = nil, nil
	if got, want := broken(inv.Validate()), "container: must not be absent for kind container: it names the image"; !slices.Equal(got, []string{want}) {
		t.Errorf("Validate() without a container = %q, want %q", got, want)
	}
	inv = containerInvocation()
	inv.Container.Setup.Environment["LARGE"] = long(contracts.MaxMessageBytes - 200)
	if got := broken(inv.Validate()); len(got) != 1 || !strings.Contains(got[0], "more than the 524288 of a message") {
		t.Errorf("Validate() of a large setup = %.200q", got)
	}
	inv = containerInvocation()
	inv.Container.Entrypoint = []string{long(contracts.MaxMessageBytes - 200)}
	if got := broken(inv.Validate()); len(got) != 1 || !strings.Contains(got[0], "more than the 524288 of a message") {
		t.Errorf("Validate() of a large one = %.200q", got)
	}
}

// broken returns the text of every problem.
func broken(err error) (list []string) {
	var invalid *contracts.ValidationError
	if errors.As(err, &invalid) {
		for _, p := range invalid.Fields {
			list = append(list, p.Error())
		}
	} else if err != nil {
		list = append(list, err.Error())
	}
	return list
}
