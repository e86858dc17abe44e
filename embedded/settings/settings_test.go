package settings_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/runnel-project/runnel/embedded/settings"
)

// program is a command with a flag of each sort, and says what they got.
func program(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var server string
	var slots int
	var labels, env []string
	var got string
	root := &cobra.Command{Use: "prog", SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return settings.Load(cmd) }}
	root.PersistentFlags().StringVar(&server, "server", "default", "where")
	sub := &cobra.Command{Use: "sub", RunE: func(*cobra.Command, []string) error {
		got = fmt.Sprint(server, " ", slots, " ", labels, " ", env)
		return nil
	}}
	sub.Flags().IntVar(&slots, "slots", 1, "how many")
	sub.Flags().StringSliceVar(&labels, "label", nil, "which")
	sub.Flags().StringArrayVarP(&env, "env", "e", nil, "what")
	root.AddCommand(sub)
	other := &cobra.Command{Use: "other", RunE: func(*cobra.Command, []string) error { return nil }}
	other.Flags().Bool("deep", false, "of another command")
	root.AddCommand(other)
	settings.Describe(root)
	root.SetArgs(append([]string{"sub"}, args...))
	err := root.Execute()
	return got, err
}

func TestLoad(t *testing.T) {
	for name, c := range map[string]struct {
		file string // "" is none
		env  map[string]string
		args []string
		want string
		err  []string
	}{
		"defaults":         {want: "default 1 [] []"},
		"file":             {file: "server: f\nslots: 4\n", want: "f 4 [] []"},
		"environment":      {file: "server: f\nslots: 4\n", env: map[string]string{"RUNNEL_SERVER": "e"}, want: "e 4 [] []"},
		"flag":             {file: "server: f", env: map[string]string{"RUNNEL_SERVER": "e"}, args: []string{"--server", "a"}, want: "a 1 [] []"},
		"flag repeated":    {env: map[string]string{"RUNNEL_LABEL": "x=1"}, args: []string{"--label", "y=2"}, want: "default 1 [y=2] []"},
		"list":             {file: "label: [a=1, b=2]\nenv: [\"A=1,2\", B]\n", want: "default 1 [a=1 b=2] [A=1,2 B]"},
		"map":              {file: "label: {b: 2, a: 1}\n", want: "default 1 [a=1 b=2] []"},
		"variable list":    {env: map[string]string{"RUNNEL_LABEL": "a=1,b=2", "RUNNEL_ENV": "A=1,2\nB=3"}, want: "default 1 [a=1 b=2] [A=1,2 B=3]"},
		"empty variable":   {file: "server: f", env: map[string]string{"RUNNEL_SERVER": ""}, want: "f 1 [] []"},
		"another's key":    {file: "deep: true\n", want: "default 1 [] []"},
		"reserved":         {env: map[string]string{"RUNNEL_ATTEMPT": "3", "RUNNEL_WORKSPACE": "/w"}, want: "default 1 [] []"},
		"unknown variable": {env: map[string]string{"RUNNEL_OTHER": "3"}, want: "default 1 [] []"},
		"unknown key":      {file: "sever: f\n", err: []string{`"sever"`, "server", "set.yaml"}},
		"config as key":    {file: "config: f\n", err: []string{`"config"`}},
		"bad in file":      {file: "slots: many\n", err: []string{"set.yaml: slots", `"many"`}},
		"bad in variable":  {env: map[string]string{"RUNNEL_SLOTS": "many"}, err: []string{"$RUNNEL_SLOTS", `"many"`}},
		"list for one":     {file: "slots: [1, 2]\n", err: []string{"slots", "one value"}},
		"no YAML":          {file: "server: [\n", err: []string{"set.yaml"}},
		"no such file":     {args: []string{"--config", "/nowhere/x.yaml"}, err: []string{"/nowhere/x.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_CONFIG_HOME", t.TempDir())
			t.Setenv("HOME", t.TempDir())
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			if c.file != "" {
				path := filepath.Join(t.TempDir(), "set.yaml")
				if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
					t.Fatal(err)
				}
				c.args = append([]string{"--config", path}, c.args...)
			}
			got, err := program(t, c.args...)
			if (err != nil) != (c.err != nil) {
				t.Fatalf("Load() = %v, want error with %q", err, c.err)
			}
			for _, part := range c.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("Load() = %q, want %q in it", err, part)
				}
			}
			if err == nil && got != c.want {
				t.Errorf("settings are %q, want %q", got, c.want)
			}
		})
	}
}

func TestDefaultFileIsRead(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	if err := os.MkdirAll(filepath.Join(dir, "runnel"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "runnel", "prog.yaml"), []byte("slots: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := program(t); err != nil || got != "default 7 [] []" {
		t.Errorf("settings are %q, %v, want slots 7", got, err)
	}
	if got, err := program(t, "--config", os.DevNull); err != nil || got != "default 1 [] []" {
		t.Errorf("with another file the settings are %q, %v, want the defaults", got, err)
	}
}
