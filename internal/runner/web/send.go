package web

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	firstDelay    = 200 * time.Millisecond
	maxDelay      = 30 * time.Second
	maxRetryAfter = time.Hour
)

// Send is Do, and again up to Retries times where the other side said to come back, or nothing arrived that it could have
// taken for the request. What may have begun something there is only repeated where twice is as good as once: by the
// method, or by the idempotency header.
func (c *Call) Send(ctx context.Context, r Request) (*http.Response, error) {
	for try := 0; ; try++ {
		response, err := c.Do(ctx, r)
		if try >= c.Retries || !c.again(r, response, err) {
			return response, err
		}
		wait := Spread(min(firstDelay<<min(try, 20), maxDelay), 0.2)
		if response != nil {
			if told, ok := RetryAfter(response, time.Now()); ok {
				wait = told
			}
			Discard(response)
		}
		if err := Wait(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// again reports whether a request that came to this may be sent again.
func (c *Call) again(r Request, response *http.Response, err error) bool {
	if !r.Bare && !c.Repeatable() {
		return false
	}
	harmless := c.IdempotencyHeader != ""
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		harmless = true
	}
	if err != nil {
		var f *Failure
		return errors.As(err, &f) && f.Reason == "" && (f.Unsent || harmless)
	}
	switch code := response.StatusCode; {
	case r.Final.Has(code):
		return false
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return true // it says that it did not take it
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooEarly:
		return harmless
	}
	return false
}

// RetryAfter reads how long an answer asks to wait: seconds or a date, an hour at most.
func RetryAfter(response *http.Response, now time.Time) (time.Duration, bool) {
	text := response.Header.Get("Retry-After")
	if s, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(s)*time.Second, maxRetryAfter), true
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter), true
	}
	return 0, false
}

// Spread returns d changed by up to the given part of it, so that a thousand jobs do not come back together.
func Spread(d time.Duration, part float64) time.Duration {
	return d + time.Duration((2*rand.Float64()-1)*part*float64(d))
}
