package runnel

import (
	"errors"

	"github.com/runnel-project/runnel/internal/contracts"
)

// ParseInvocation reads an invocation that is written down: JSON if its first byte after white space is `{`, else
// msgpack. It is strict: an unknown, doubled or wrongly spelled field is an error that names it. What the
// fields say is checked by Submit.
func ParseInvocation(data []byte) (Invocation, error) {
	if len(data) == 0 {
		return Invocation{}, errors.New("an empty document")
	}
	return contracts.Decode[contracts.Invocation](data, contracts.Meta{})
}
