package vsim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/disk"
)

// store is one datastore: a folder, with an account of what its disks take.
type store struct {
	vc       *VC
	ref      types.ManagedObjectReference
	ds       *simulator.Datastore
	name     string
	decl     Datastore
	dc       *simulator.Datacenter
	dir      string
	capacity atomic.Int64
	// other is what is taken by files that are not disks: tests fill a datastore with it.
	other atomic.Int64
	shown atomic.Int64
	mu    sync.Mutex // of show
}

// path is "[datastore] folder/file".
func (s *store) path(folder, file string) string {
	p := object.DatastorePath{Datastore: s.name, Path: folder}
	if file != "" {
		p.Path += "/" + file
	}
	return p.String()
}

// local is the same on this machine.
func (s *store) local(folder, file string) string { return filepath.Join(s.dir, folder, file) }

func (s *store) url() string {
	id := s.vc.stableUUID("datastore", s.name).String()
	return "ds:///vmfs/volumes/" + id + "/"
}

// blocks is what a file takes on the disk of this machine: datastores' files are sparse, as thin disks are.
func (s *store) blocks(folder, file string) int64 {
	info, err := os.Stat(s.local(folder, file))
	if err != nil {
		return 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

func extentOf(descriptor string, base bool) string {
	name := strings.TrimSuffix(descriptor, ".vmdk")
	if base {
		return name + "-flat.vmdk"
	}
	return name + "-delta.vmdk"
}

// used sums up what all disks on the datastore take. It locks nothing that a disk's writer may hold.
func (s *store) used() int64 {
	return s.other.Load() + s.vc.usage.of(s)
}

func (s *store) free() int64 { return max(0, s.capacity.Load()-s.used()) }

// grant is asked by a disk before it takes more: it refuses on a full datastore.
func (s *store) grant(n int64) error {
	if n > s.free() {
		return fmt.Errorf("%w: %s has %d bytes free, %d are needed", disk.ErrNoSpace, s.name, s.free(), n)
	}
	return nil
}

func (s *store) noSpace(file string) types.BaseMethodFault {
	return say(&types.NoDiskSpace{FileFault: types.FileFault{File: file}, Datastore: s.name}, "msg.disklib.NOSPACE",
		"There is no more space for virtual disk '"+file+"' on datastore "+s.name)
}

// show updates the datastore's figures, if they changed.
func (s *store) show() {
	free := s.free()
	if s.shown.Swap(free) == free {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	info := *s.ds.Info.(*types.VmfsDatastoreInfo)
	info.FreeSpace = free
	now := time.Now().UTC()
	info.Timestamp = &now
	s.vc.update(s.ds, set("summary.freeSpace", free), set("summary.capacity", s.capacity.Load()), set("info", &info))
}

func (v *VC) allStores() []*store {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []*store
	for _, s := range v.stores {
		out = append(out, s)
	}
	return out
}

func (v *VC) showSpace() {
	for _, s := range v.allStores() {
		s.show()
	}
}

// watchSpace keeps the figures fresh while guests write. A real vCenter does so when it refreshes storage, or when asked.
func (v *VC) watchSpace() {
	v.showSpace()
	v.background(func() {
		for v.sleep(time.Second) {
			v.showSpace()
		}
	})
}

func (v *VC) refreshStore(ref types.ManagedObjectReference) {
	for _, s := range v.allStores() {
		if s.ref == ref {
			s.show()
		}
	}
}

// RefreshDatastore brings the free space up to date.
func (f *front) RefreshDatastore(_ *simulator.Context, req *types.RefreshDatastore) soap.HasFault {
	f.vc.refreshStore(req.This)
	return &methods.RefreshDatastoreBody{Res: new(types.RefreshDatastoreResponse)}
}

// RefreshDatastoreStorageInfo does, too.
func (f *front) RefreshDatastoreStorageInfo(_ *simulator.Context, req *types.RefreshDatastoreStorageInfo) soap.HasFault {
	f.vc.refreshStore(req.This)
	return &methods.RefreshDatastoreStorageInfoBody{Res: new(types.RefreshDatastoreStorageInfoResponse)}
}
