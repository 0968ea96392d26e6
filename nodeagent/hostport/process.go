package hostport

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

type process struct {
	pid     int
	command string
}

// maxKnown is how many sockets' processes are remembered: an inode's number does
// not soon come again, so nothing else tells that one may be forgotten.
const maxKnown = 1024

// identify finds the processes that have sockets open. It walks through /proc
// only for sockets that it sees for the first time, or whose process has ended.
func (p *Ports) identify(inodes map[uint32]bool) {
	maps.DeleteFunc(p.known, func(i uint32, who process) bool {
		return len(p.known) > maxKnown && !inodes[i] || inodes[i] && who.ended()
	})
	missing := map[string]uint32{}
	for i := range inodes {
		if _, ok := p.known[i]; !ok {
			p.known[i] = process{}
			missing["socket:["+strconv.FormatUint(uint64(i), 10)+"]"] = i
		}
	}
	for _, pid := range pids(len(missing) > 0) {
		for _, link := range openFiles(pid) {
			if i, ok := missing[link]; ok {
				p.known[i] = process{pid, command(pid)}
				delete(missing, link)
			}
		}
		if len(missing) == 0 {
			return
		}
	}
}

func (p process) ended() bool {
	if p.pid == 0 {
		return false
	}
	_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(p.pid)))
	return err != nil
}

// pids returns the processes that are visible, the oldest number first: of those
// that share a socket the parent has it, more often than not.
func pids(wanted bool) []int {
	if !wanted {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	var list []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, pid)
		}
	}
	slices.Sort(list)
	return list
}

// openFiles returns what the descriptors of a process are; nothing of one that
// has ended or may not be looked into.
func openFiles(pid int) []string {
	folder := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(folder)
	var out []string
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(folder, e.Name())); err == nil {
			out = append(out, link)
		}
	}
	return out
}

// command is the name of a process, which may choose any bytes for it.
func command(pid int) string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return "a process"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimSuffix(string(text), "\n"))
}
