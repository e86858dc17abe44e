package artifacts

import "io/fs"

// Reaches reports whether a walk that looks only where a glob reaches comes to a name.
func Reaches(glob, name string) bool {
	p := newPicker([]string{glob})
	if !fs.ValidPath(name) || name == "." {
		return true // no walk has it
	}
	for i := range name {
		if name[i] == '/' && p.picks(name[:i]) {
			return true
		}
		if name[i] == '/' && !p.reaches(name[:i]) {
			return false
		}
	}
	return p.picks(name)
}
