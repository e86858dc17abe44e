package settings_test

import (
	"testing"

	"github.com/runnel-project/runnel/embedded/settings"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"1048576": 1 << 20, "64KiB": 64 << 10, "64k": 64 << 10, "1 MB": 1e6, "1.5GiB": 3 << 29, "0": 0} {
		var s settings.Size
		if err := s.Set(text); err != nil || s.Bytes != want {
			t.Errorf("Set(%q) = %v and %d, want %d", text, err, s.Bytes, want)
		}
		var again settings.Size
		if shown := s.String(); want > 0 && (again.Set(shown) != nil || again != s) {
			t.Errorf("%q is shown as %q, which is %d", text, shown, again.Bytes)
		}
	}
	for _, text := range []string{"", "KiB", "-1", "1 XB", "9e18GiB", "NaN", "1KiB2"} {
		var s settings.Size
		if err := s.Set(text); err == nil {
			t.Errorf("Set(%q) = %d, want an error", text, s.Bytes)
		}
	}
}
