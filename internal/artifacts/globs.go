package artifacts

import (
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// picker says which names of a workspace are kept. A directory that is picked is kept with all below it.
type picker struct {
	globs []picked
}

type picked struct {
	glob string
	base string // the directory before the first wildcard; "." is the root
	// deep is how many directories below base may lie between it and a match; -1 is any number.
	deep int
	used bool
}

// newPicker takes globs that contracts.Invocation.Validate has passed.
func newPicker(globs []string) *picker {
	p := &picker{}
	for _, glob := range globs {
		glob = strings.TrimSuffix(glob, "/")
		base, rest := doublestar.SplitPattern(glob)
		deep := strings.Count(rest, "/")
		if strings.Contains(rest, "**") {
			deep = -1
		}
		p.globs = append(p.globs, picked{glob: glob, base: base, deep: deep})
	}
	return p
}

// picks reports whether a name is kept.
func (p *picker) picks(name string) (hit bool) {
	for i := range p.globs {
		g := &p.globs[i]
		if hit && g.used {
			continue
		}
		if ok, err := doublestar.Match(g.glob, name); ok && err == nil {
			hit, g.used = true, true
		}
	}
	return hit
}

// reaches reports whether something below a directory may be kept: what cannot is not looked at.
func (p *picker) reaches(dir string) bool {
	for _, g := range p.globs {
		if g.leads(dir) {
			return true
		}
		below := dir
		if g.base != "." {
			var ok bool
			if below, ok = strings.CutPrefix(dir, g.base+"/"); !ok {
				continue
			}
		}
		if g.deep < 0 || strings.Count(below, "/") < g.deep {
			return true
		}
	}
	return false
}

// named reports whether a name stands in a glob, as a directory on the way to what it matches.
func (p *picker) named(name string) bool {
	for _, g := range p.globs {
		if g.leads(name) {
			return true
		}
	}
	return false
}

func (g picked) leads(dir string) bool { return g.base == dir || strings.HasPrefix(g.base, dir+"/") }

// unused are the globs that picked nothing.
func (p *picker) unused() (globs []string) {
	for _, g := range p.globs {
		if !g.used {
			globs = append(globs, g.glob)
		}
	}
	return globs
}
