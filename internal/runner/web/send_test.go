package web_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/runnel-project/runnel/internal/runner/web"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, "999999": time.Hour, now.Add(9 * time.Second).Format(http.TimeFormat): 9 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat): 0, "": -1, "-1": -1, "soon": -1, "1.5": -1, "99999999999999999999": -1,
	} {
		got, ok := web.RetryAfter(&http.Response{Header: http.Header{"Retry-After": {text}}}, now)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("RetryAfter(%q) = %v, %v, want %v", text, got, ok, want)
		}
	}
}

func TestSpread(t *testing.T) {
	for range 1000 {
		if d := web.Spread(time.Second, 0.2); d < 800*time.Millisecond || d > 1200*time.Millisecond {
			t.Fatalf("Spread() = %v", d)
		}
	}
}
