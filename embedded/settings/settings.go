// Package settings is what the commands submit and worker share: settings from
// flags, environment and a file, and the connection that they describe.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envPrefix stands before the name of a flag in the environment: --no-color is RUNNEL_NO_COLOR.
const envPrefix = "RUNNEL_"

// reserved are the variables that a worker sets for the work it runs. A submit
// inside of a job must not take them for settings.
var reserved = []string{"RUNNEL_INVOCATION_ID", "RUNNEL_ATTEMPT", "RUNNEL_WORKSPACE", "RUNNEL_ARTIFACTS"}

// unset are flags that say what one call is to do; elsewhere they would be a trap.
var unset = []string{"help", "version"}

// Variable is the environment variable of the flag called name.
func Variable(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Describe adds the flag --config to root, and to the help of every flag of
// every command the name of its variable. Call it when all commands are there.
func Describe(root *cobra.Command) {
	root.PersistentFlags().String("config", "", "file of settings, YAML: `FILE`, keys are the names of flags (default "+shown(defaultFile(root.Name()))+")")
	seen := map[*pflag.Flag]bool{}
	each(root, func(f *pflag.Flag) {
		if !seen[f] && !slices.Contains(unset, f.Name) {
			f.Usage += " [$" + Variable(f.Name) + "]"
			seen[f] = true
		}
	})
}

// Load gives every flag of cmd that was not given on the command line its value
// from the environment, else from the file of settings.
func Load(cmd *cobra.Command) error {
	path, must, err := configFile(cmd)
	if err != nil {
		return err
	}
	k := koanf.New("\x00") // no key is a path
	if path != "" {
		if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
			if errors.Is(err, fs.ErrNotExist) && !must {
				err = nil
			}
			if err != nil {
				return fmt.Errorf("file of settings %s: %w", path, err)
			}
		}
	}
	known := names(cmd.Root())
	for key := range k.Raw() {
		if !slices.Contains(known, key) {
			return fmt.Errorf("file of settings %s: unknown key %q: keys are the names of flags without the dashes before them: %s",
				path, key, strings.Join(known, ", "))
		}
	}
	fromFile := k.Copy()
	lookup := map[string]string{}
	for _, name := range known {
		if v := Variable(name); !slices.Contains(reserved, v) {
			lookup[v] = name
		}
	}
	if err := k.Load(env.Provider("\x00", env.Opt{Prefix: envPrefix, TransformFunc: func(key, value string) (string, any) {
		if value == "" {
			return "", nil // as unset
		}
		return lookup[key], value // what is no flag's has the key "" and is left out
	}}), nil); err != nil {
		return fmt.Errorf("read the environment: %w", err)
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || !k.Exists(f.Name) {
			return
		}
		from := "$" + Variable(f.Name)
		value := k.Get(f.Name)
		if os.Getenv(Variable(f.Name)) == "" && fromFile.Exists(f.Name) {
			from = path + ": " + f.Name
		}
		if err := assign(f, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", from, err))
		}
	})
	return errors.Join(errs...)
}

// assign sets f to a value of a file (scalar, list or map) or of a variable.
func assign(f *pflag.Flag, value any) error {
	var items []string
	switch v := value.(type) {
	case map[string]any:
		for name, item := range v {
			items = append(items, fmt.Sprint(name, "=", item))
		}
		slices.Sort(items)
	case []any:
		for _, item := range v {
			items = append(items, fmt.Sprint(item))
		}
	case string:
		items = []string{v}
		// A value of a repeated flag may hold a comma, so a variable separates them by lines.
		if f.Value.Type() == "stringArray" {
			items = strings.Split(strings.TrimSuffix(v, "\n"), "\n")
		}
	default:
		items = []string{fmt.Sprint(v)}
	}
	if _, many := f.Value.(pflag.SliceValue); !many && len(items) != 1 {
		return fmt.Errorf("one value is expected, not %d", len(items))
	}
	for _, item := range items {
		if err := f.Value.Set(item); err != nil {
			return fmt.Errorf("%q: %w", item, err)
		}
	}
	f.Changed = true
	return nil
}

// configFile is the file to read, and whether it must be there.
func configFile(cmd *cobra.Command) (path string, must bool, err error) {
	if f := cmd.Flag("config"); f != nil && f.Changed {
		path = f.Value.String()
	} else {
		path = os.Getenv(Variable("config"))
	}
	if path != "" {
		return path, true, nil
	}
	return defaultFile(cmd.Root().Name()), false, nil
}

// defaultFile is "" where the account has no place for settings.
func defaultFile(program string) string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "runnel", program+".yaml")
}

// shown writes the account's own directory as people do.
func shown(path string) string {
	if home, err := os.UserHomeDir(); err == nil {
		if rest, ok := strings.CutPrefix(path, home+string(filepath.Separator)); ok {
			return "~/" + filepath.ToSlash(rest)
		}
	}
	return path
}

// names lists the flags of all commands under root that may be set elsewhere, sorted.
func names(root *cobra.Command) []string {
	var all []string
	each(root, func(f *pflag.Flag) {
		if !slices.Contains(unset, f.Name) && f.Name != "config" && !f.Hidden {
			all = append(all, f.Name)
		}
	})
	slices.Sort(all)
	return slices.Compact(all)
}

func each(cmd *cobra.Command, do func(*pflag.Flag)) {
	cmd.PersistentFlags().VisitAll(do)
	cmd.LocalFlags().VisitAll(do)
	for _, sub := range cmd.Commands() {
		each(sub, do)
	}
}
