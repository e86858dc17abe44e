package queue

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// What a cluster says while it elects a leader is no answer, and is asked again (ran: a worker that started
// beside a frozen server, streams that were made right after a cluster's start).
func TestEnsureErrorOfAnUnsettledCluster(t *testing.T) {
	tests := map[string]struct {
		err  jetstream.APIError
		want bool
	}{
		"no leader":        {jetstream.APIError{Code: 503, ErrorCode: 10008, Description: "JetStream system temporarily unavailable"}, true},
		"a server is gone": {jetstream.APIError{Code: 400, ErrorCode: 10005, Description: "no suitable peers for placement, peer offline"}, true},
		"too few servers":  {jetstream.APIError{Code: 400, ErrorCode: 10005, Description: "no suitable peers for placement"}, false},
		"a bad setting":    {jetstream.APIError{Code: 400, ErrorCode: 10025, Description: "invalid JSON"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := ensureError(t.Context(), &tt.err); errors.Is(err, ErrUnknown) != tt.want {
				t.Errorf("ensureError() = %v, unknown %v, want %v", err, !tt.want, tt.want)
			}
		})
	}
}
