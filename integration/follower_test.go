package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/runnel-project/runnel/integration/fleet"
	"github.com/runnel-project/runnel/integration/proxy"
	"github.com/runnel-project/runnel/internal/contracts"
)

// followerPoint is a moment of a follower's life at which it is killed, or loses its connection.
type followerPoint struct {
	// job is what it follows.
	job func(f *fleet.Fleet, t *testing.T, id string) contracts.Invocation
	// late has it begin when the job has ended.
	late bool
	// gets has the moment come before it asks for the nth time for what is stored; 0 when it shows output.
	gets int
	// rate is its link's, in bytes a second; 0 is all there is.
	rate int
	// cut has its way cut then, and the moment come when the result is stored.
	cut bool
}

// directGet is how a follower asks for what is stored.
const directGet = "PUB $JS.API.DIRECT.GET."

var followerPoints = map[string]followerPoint{
	"subscribed, nothing read":                {job: counting, gets: 1},
	"in the middle of a gap":                  {job: flooding, late: true, gets: 3},
	"after the result, before the last chunk": {job: counting, cut: true},
	"on a slow link":                          {job: flooding, rate: 1 << 20},
}

func counting(f *fleet.Fleet, _ *testing.T, id string) contracts.Invocation {
	return f.Count("default", id, "-n", "40", "-every", "50ms", "-both")
}

func flooding(f *fleet.Fleet, t *testing.T, id string) contracts.Invocation {
	inv := flood(f, t, 4<<20)
	inv.ID = id
	return inv
}

// A follower is killed, or loses its connection, at each moment of its life: the job and the other followers do not
// notice, and one that comes back sees all that is stored.
func TestKillFollower(t *testing.T) {
	t.Parallel()
	f := fleet.Start(t, fleet.Config{})
	f.StartWorker(fleet.WorkerConfig{Slots: 8})
	c := f.Client("default", "")
	for range rounds(t, 1) {
		for name, point := range followerPoints {
			id := f.ID("job")
			f.Submit(c, point.job(f, t, id))
			if point.late {
				result(t, c, id, fleet.Patience)
			}
			f.Follow(f.Client("default", ""), "default", id, "beside "+id)
			killed, killedAt := f.Proxy()
			lost, lostAt := f.Proxy()
			client := f.Client("default", lostAt)
			killedComes, lostComes := point.set(killed), point.set(lost)
			watcher := f.StartWatcher(killedAt, id)
			f.Follow(client, "default", id, "again "+id)
			point.await(t, killed, killedComes, func() {
				for watcher.Event() != contracts.EventOutput {
				}
			})
			point.await(t, lost, lostComes, func() {
				f.Await("output of "+id, fleet.Patience, func(context.Context) (bool, string) {
					n, err := f.Bytes("again "+id, contracts.Stdout)
					return n > 0, fmt.Sprint(n, err)
				})
			})
			if point.cut {
				result(t, c, id, fleet.Patience)
			}
			watcher.Kill()
			lost.Throttle(0)
			lost.Drop()
			lost.Mend()
			figure(t, "killed and cut off", "%s", name)
			f.Follow(f.Client("default", ""), "default", id, "after "+id)
		}
	}
	second(t, f.Verify())
}

// set has a follower's way be what the moment wants, and returns what tells of it, or nil.
func (p followerPoint) set(way *proxy.Proxy) <-chan struct{} {
	way.Throttle(p.rate)
	if p.gets == 0 {
		return nil
	}
	return way.Trap(directGet, p.gets)
}

// await waits for the moment.
func (p followerPoint) await(t *testing.T, way *proxy.Proxy, comes <-chan struct{}, shows func()) {
	t.Helper()
	if comes == nil {
		shows()
	} else {
		select {
		case <-comes:
		case <-time.After(fleet.Patience):
			t.Fatal("the follower did not ask for what is stored")
		}
	}
	if p.cut {
		way.Cut()
	}
}
