package embedded

import (
	"fmt"
	"sync/atomic"

	"github.com/rs/zerolog"
)

// serverLog hands the server's words to a zerolog logger. What the server calls
// a notice (its start, its banner) is debugging here.
type serverLog struct {
	log zerolog.Logger
	// fatal is the last reason for which the server did not start: it says so to its log only.
	fatal atomic.Pointer[string]
}

func (l *serverLog) Noticef(format string, v ...any) { l.say(l.log.Debug(), format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.say(l.log.Debug(), format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.say(l.log.Trace(), format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.say(l.log.Warn(), format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.say(l.log.Error(), format, v) }

// Fatalf does not end the process, as the server's own logger would: it is not the server's process.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.Store(&text)
	l.say(l.log.Error(), format, v)
}

func (*serverLog) say(e *zerolog.Event, format string, v []any) {
	e.Str("text", fmt.Sprintf(format, v...)).Msg("nats server")
}
