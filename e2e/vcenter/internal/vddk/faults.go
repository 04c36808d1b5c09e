package vddk

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault is one way in which the data path misbehaves: which requests it meets, and what befalls them.
type Fault struct {
	// Op is the request it meets: connect, open, read, allocated, close, prepare, end; empty is any.
	Op string `json:"op,omitempty"`
	// VM is the virtual machine's reference ("vm-62"); empty is any.
	VM string `json:"vm,omitempty"`
	// Path is a part of the disk's name; empty is any, and never met by connect, prepare and end otherwise.
	Path string `json:"path,omitempty"`
	// Skip is how many requests pass before it begins.
	Skip int `json:"skip,omitempty"`
	// Count is how many requests it meets; 0 is all, until it is cleared.
	Count int `json:"count,omitempty"`

	// DelayMs holds an answer back, before whatever else the fault does.
	DelayMs int64 `json:"delayMs,omitempty"`
	// Stall gives no answer until the fault is cleared or the connection ends.
	Stall bool `json:"stall,omitempty"`
	// Error is the VixError to answer instead of doing what is asked.
	Error Error `json:"error,omitempty"`
	// Drop cuts the connection in the place of an answer.
	Drop bool `json:"drop,omitempty"`
	// DropAfterBytes cuts the connection in the middle of an answer, once so many bytes of answers went out since the fault was set.
	DropAfterBytes int64 `json:"dropAfterBytes,omitempty"`
}

func (f Fault) check() error {
	known := f.Op == ""
	for _, name := range opNames {
		known = known || f.Op == name
	}
	switch {
	case !known:
		return fmt.Errorf("vddk fault: op %q: give connect, open, read, allocated, close, prepare, end, or nothing for any", f.Op)
	case f.Skip < 0 || f.Count < 0 || f.DelayMs < 0 || f.DropAfterBytes < 0:
		return fmt.Errorf("vddk fault: skip, count, delayMs and dropAfterBytes can't be negative")
	case f.DelayMs == 0 && !f.Stall && f.Error == 0 && !f.Drop && f.DropAfterBytes == 0:
		return fmt.Errorf("vddk fault: it does nothing: give delayMs, stall, error, drop or dropAfterBytes")
	}
	return nil
}

// OpenDisk tells of a disk that a client holds open.
type OpenDisk struct {
	VM       string    `json:"vm"`
	Snapshot string    `json:"snapshot"`
	Path     string    `json:"path"`
	User     string    `json:"user"`
	Since    time.Time `json:"since"`
	Reads    int64     `json:"reads"`
	Bytes    int64     `json:"bytes"`
	// InFlight is how many reads and queries of it are not answered yet: a client has so many buffers of the host's.
	InFlight int64 `json:"inFlight"`
}

// Count is how often something was asked, and how often it was refused or cut.
type Count struct {
	Calls  int64 `json:"calls"`
	Failed int64 `json:"failed"`
}

// Faults is what tests do to a Handler, and what they ask of it. The zero value does nothing but count.
type Faults struct {
	mu     sync.Mutex
	next   int
	rules  []*rule
	counts map[string]Count
	bytes  int64
	conns  map[net.Conn]struct{}
	disks  map[*openDisk]struct{}
}

type rule struct {
	id    int
	fault Fault
	seen  int
	hit   int
	sent  int64
	gone  chan struct{}
}

// Set adds a fault and returns the id to clear it by. Of several faults that meet a request, each that has its turn befalls it.
func (f *Faults) Set(fault Fault) (int, error) {
	if err := fault.check(); err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	f.rules = append(f.rules, &rule{id: f.next, fault: fault, gone: make(chan struct{})})
	return f.next, nil
}

// Clear takes a fault away, and tells whether it was there. What it stalled goes on.
func (f *Faults) Clear(id int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.rules, func(r *rule) bool { return r.id == id })
	if i < 0 {
		return false
	}
	close(f.rules[i].gone)
	f.rules = slices.Delete(f.rules, i, i+1)
	return true
}

// ClearAll takes all faults away.
func (f *Faults) ClearAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		close(r.gone)
	}
	f.rules = nil
}

// DropAll cuts every connection now, and tells how many there were.
func (f *Faults) DropAll() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.Close() // it is to be cut: how that ends does not matter
	}
	return len(f.conns)
}

// Counts returns how often each operation was asked, since the start or the last ResetCounts.
func (f *Faults) Counts() map[string]Count {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]Count, len(opNames))
	for _, name := range opNames {
		out[name] = f.counts[name]
	}
	return out
}

// BytesRead returns how many bytes of disks were sent.
func (f *Faults) BytesRead() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes
}

// ResetCounts begins to count anew. Open disks stay listed.
func (f *Faults) ResetCounts() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts = nil
	f.bytes = 0
}

// Connections returns how many clients there are now.
func (f *Faults) Connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// OpenDisks lists the disks that are open now, the oldest first.
func (f *Faults) OpenDisks() []OpenDisk {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]OpenDisk, 0, len(f.disks))
	for d := range f.disks {
		out = append(out, d.OpenDisk)
	}
	slices.SortFunc(out, func(a, b OpenDisk) int { return a.Since.Compare(b.Since) })
	return out
}

func (f *Faults) addConn(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns == nil {
		f.conns = map[net.Conn]struct{}{}
	}
	f.conns[c] = struct{}{}
}

func (f *Faults) removeConn(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
}

func (f *Faults) addDisk(d *openDisk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.disks == nil {
		f.disks = map[*openDisk]struct{}{}
	}
	f.disks[d] = struct{}{}
}

func (f *Faults) removeDisk(d *openDisk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.disks, d)
}

// inFlight counts a request of a disk in or out.
func (f *Faults) inFlight(d *openDisk, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.InFlight += n
}

// match returns the rules whose turn it is for a request.
func (f *Faults) match(o op, vm, path string) []*rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*rule
	for _, r := range f.rules {
		if r.fault.Op != "" && r.fault.Op != opNames[o] || r.fault.VM != "" && r.fault.VM != vm ||
			r.fault.Path != "" && !strings.Contains(path, r.fault.Path) {
			continue
		}
		r.seen++
		if r.seen <= r.fault.Skip || r.fault.Count > 0 && r.hit >= r.fault.Count {
			continue
		}
		r.hit++
		out = append(out, r)
	}
	return out
}

// room is how many of n bytes the rules let out; fewer than n means that the connection is cut after them.
func (f *Faults) room(rules []*rule, n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := n
	for _, r := range rules {
		if limit := r.fault.DropAfterBytes; limit > 0 {
			out = min(out, int(max(0, limit-r.sent)))
			r.sent += int64(n)
		}
	}
	return out
}

func (f *Faults) count(o op, failed bool, d *openDisk, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = map[string]Count{}
	}
	c := f.counts[opNames[o]]
	c.Calls++
	if failed {
		c.Failed++
	}
	f.counts[opNames[o]] = c
	f.bytes += bytes
	if d != nil && bytes > 0 {
		d.Reads++
		d.Bytes += bytes
	}
}
