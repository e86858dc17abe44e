// Package tree holds on to processes by what the kernel says of them: cgroup v2
// directories and /proc. It is what package subprocess and its guard share, and works on Linux only.
package tree
