package vsim

import (
	"sync"
	"sync/atomic"

	"hawser.dev/e2e/vcenter/internal/disk"
)

// usage knows which disks stand on which datastore, under a lock of its own: disks ask for space while machines are locked.
type usage struct {
	mu    sync.RWMutex
	disks map[*disk.Disk]*place
}

// place is where a disk is; storage vMotion changes it.
type place struct{ at atomic.Pointer[store] }

func newUsage() *usage { return &usage{disks: map[*disk.Disk]*place{}} }

// add counts a disk. Until it is added it may write nothing, since its place is asked for space.
func (u *usage) add(d *disk.Disk, p *place) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.disks[d] = p
}

func (u *usage) remove(d *disk.Disk) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.disks, d)
}

// move counts a disk elsewhere.
func (u *usage) move(d *disk.Disk, s *store) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if p := u.disks[d]; p != nil {
		p.at.Store(s)
	}
}

// deltas is what snapshots eat of a datastore.
func (u *usage) deltas(s *store) int64 {
	u.mu.RLock()
	defer u.mu.RUnlock()
	n := int64(0)
	for d, p := range u.disks {
		if p.at.Load() == s {
			_, deltas := d.UsedBy()
			n += deltas
		}
	}
	return n
}

// of is what all disks on a datastore take.
func (u *usage) of(s *store) int64 {
	u.mu.RLock()
	defer u.mu.RUnlock()
	n := int64(0)
	for d, p := range u.disks {
		if p.at.Load() == s {
			n += d.Used()
		}
	}
	return n
}
