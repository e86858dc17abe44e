package queue_test

import (
	"errors"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runnel-project/runnel/internal/queue"
	"github.com/runnel-project/runnel/internal/queue/queuetest"
)

// A test write is made only by who may remove it, and leaves nothing.
func TestInspectLeavesNothing(t *testing.T) {
	t.Parallel()
	node := queuetest.Server(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "all", Password: "x"}}
		for name, deny := range map[string]string{"no-delete": "$JS.API.STREAM.MSG.DELETE.>", "no-write": "runnel.>", "no-look": "$JS.API.STREAM.INFO.>"} {
			o.Users = append(o.Users, &server.User{Username: name, Password: "x", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: []string{">"}, Deny: []string{deny}},
			}})
		}
	})
	all := ensured(t, node.Connect(t, nats.UserInfo("all", "x")), queue.Topology{})
	for user, want := range map[string]struct{ err, write error }{
		"all": {}, "no-delete": {nil, queue.ErrDenied}, "no-write": {nil, queue.ErrDenied}, "no-look": {queue.ErrDenied, nil},
	} {
		js, err := jetstream.New(node.Connect(t, nats.UserInfo(user, "x")))
		if err != nil {
			t.Fatal(err)
		}
		found := queue.Inspect(t.Context(), js, queue.Topology{}, "default")
		if len(found) != 4 {
			t.Errorf("%s: Inspect() = %v, want four streams", user, found)
		}
		for i, f := range found {
			write := want.write
			if i == 3 {
				write = nil // that of the workers' presence is not written to
			}
			if !errors.Is(f.Err, want.err) || !errors.Is(f.Write, write) || len(f.Drift) > 0 || want.err == nil && f.MaxBytes == 0 {
				t.Errorf("%s: Inspect() of %s = %+v, want %v and %v", user, f.Stream, f, want.err, write)
			}
		}
		for _, stream := range []string{"RUNNEL_INVOKE", "RUNNEL_REPLY", "RUNNEL_DEAD"} {
			s, err := all.Stream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			if n := s.CachedInfo().State.Msgs; n > 0 {
				t.Errorf("%s: %d messages are left in %s", user, n, stream)
			}
		}
	}
}
