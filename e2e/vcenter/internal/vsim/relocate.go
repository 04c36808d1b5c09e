package vsim

import (
	"errors"
	"os"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// move is where a machine goes: nil stays.
type move struct {
	host  *host
	home  *store
	disks map[int32]*store
}

// permitRelocate needs the right to migrate the machine, and to take space where its files go.
func (v *VC) permitRelocate(user string, m *simulator.Method) types.BaseMethodFault {
	vm, fault := v.machineOf(m.This)
	if fault != nil {
		return fault
	}
	vm.mu.Lock()
	id := "Resource.HotMigrate"
	if vm.power == off {
		id = "Resource.ColdMigrate"
	}
	vm.mu.Unlock()
	if fault := v.demand(user, m.This, id); fault != nil {
		return fault
	}
	if req, ok := m.Body.(*types.RelocateVM_Task); ok {
		var targets []types.ManagedObjectReference
		if req.Spec.Datastore != nil {
			targets = append(targets, *req.Spec.Datastore)
		}
		for _, d := range req.Spec.Disk {
			targets = append(targets, d.Datastore)
		}
		for _, ds := range targets {
			if fault := v.demand(user, ds, "Datastore.AllocateSpace"); fault != nil {
				return fault
			}
		}
	}
	return nil
}

func (v *VC) storeByRef(ref types.ManagedObjectReference) *store {
	for _, s := range v.allStores() {
		if s.ref == ref {
			return s
		}
	}
	return nil
}

// RelocateVMTask is vMotion, storage vMotion, or both.
func (f *front) RelocateVMTask(ctx *simulator.Context, req *types.RelocateVM_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	if s := req.Spec; s.Folder != nil || s.Service != nil || len(s.DeviceChange) > 0 || len(s.Profile) > 0 || s.CryptoSpec != nil {
		fault := notSupported("spec.folder, service, deviceChange, profile and cryptoSpec are not simulated: give host, datastore or disk")
		return refuse(message(fault), fault)
	}
	to := move{disks: map[int32]*store{}}
	if ref := req.Spec.Host; ref != nil {
		if to.host = v.hostByRef(*ref); to.host == nil {
			return refuse("", invalidArgument("spec.host"))
		}
	}
	if ref := req.Spec.Datastore; ref != nil {
		if to.home = v.storeByRef(*ref); to.home == nil {
			return refuse("", invalidArgument("spec.datastore"))
		}
	}
	for _, d := range req.Spec.Disk {
		if to.disks[d.DiskId] = v.storeByRef(d.Datastore); to.disks[d.DiskId] == nil {
			return refuse("", invalidArgument("spec.disk.datastore"))
		}
	}
	ref, fault := v.relocate(m, ctx.Session.UserName, "RelocateVM_Task", "relocate", to)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{Returnval: ref}}
}

// MigrateVMTask is the older vMotion.
func (f *front) MigrateVMTask(ctx *simulator.Context, req *types.MigrateVM_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	var to move
	if req.Host == nil {
		return refuse("", invalidArgument("host"))
	}
	if to.host = v.hostByRef(*req.Host); to.host == nil {
		return refuse("", invalidArgument("host"))
	}
	ref, fault := v.relocate(m, ctx.Session.UserName, "MigrateVM_Task", "migrate", to)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.MigrateVM_TaskBody{Res: &types.MigrateVM_TaskResponse{Returnval: ref}}
}

func (v *VC) relocate(m *machine, user, method, id string, to move) (types.ManagedObjectReference, types.BaseMethodFault) {
	return v.start(job{
		method: method, id: id, entity: m.vm, entityName: m.title(), user: user, machine: m, cancelable: true,
		work: func() (types.AnyType, types.BaseMethodFault) { return nil, m.moveTo(to) },
	})
}

func (m *machine) moveTo(to move) types.BaseMethodFault {
	if fault := m.ready(); fault != nil {
		return fault
	}
	target := m.host
	if to.host != nil {
		target = to.host
	}
	if fault := target.mayHost(m); fault != nil {
		return fault
	}
	places := map[*vdisk]*store{}
	need := map[*store]int64{}
	for _, d := range m.disks {
		s := d.store
		if to.home != nil {
			s = to.home
		}
		if chosen := to.disks[d.key]; chosen != nil {
			s = chosen
		}
		if !slices.Contains(s.decl.Hosts, target.name) {
			return say(&types.CannotAccessLocalSource{}, "", "The host "+target.name+" does not see datastore "+s.name)
		}
		if s != d.store {
			places[d] = s
			need[s] += d.disk.Used()
			if m.vc.handles.anyOn(d) && m.power == off {
				return say(&types.FileLocked{FileFault: types.FileFault{File: d.path("")}}, "msg.fileio.lock", "Failed to lock the file")
			}
		}
	}
	for s, n := range need {
		if s.free() < n {
			return s.noSpace(s.path(m.folder, ""))
		}
	}
	// What reads by the old host, or the old files, loses its handle: VDDK has no way to follow (VDDK guide, PrepareForAccess).
	if target != m.host || len(places) > 0 {
		m.vc.handles.dropMachine(m)
	}
	before := m.stores()
	if to.home != nil && to.home != m.home {
		if err := m.moveHome(to.home); err != nil {
			return fileFault(m.home.path(m.folder, ""), "", err.Error())
		}
	}
	for d, s := range places {
		if err := d.moveTo(s); err != nil {
			return m.diskFault(d, err)
		}
	}
	m.vc.listStores(m.ref, before, false)
	m.vc.listStores(m.ref, m.stores(), true)
	if len(places) > 0 && m.vc.inv.Settings.RelocateResetsTracking {
		for d := range places {
			d.disk.ResetTracking()
		}
	}
	if target != m.host {
		m.vc.rehost(m, target)
	}
	if m.running() {
		m.stun() // "migrate while powered on" is one of the moments at which tracking takes effect (API reference)
	}
	m.settle()
	return nil
}

// mayHost refuses a host that cannot run the machine now.
func (h *host) mayHost(m *machine) types.BaseMethodFault {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.dc != m.dc:
		return notSupported("moving a machine to another datacenter is not simulated")
	case h.state != types.HostSystemConnectionStateConnected:
		return say(&types.HostNotConnected{}, "", "The host "+h.name+" is not connected")
	case h.maintenance && m.host != h:
		return invalidState("The host " + h.name + " is in maintenance mode")
	}
	return nil
}

// moveTo takes the disk's files to another datastore, all layers of the chain.
func (d *vdisk) moveTo(s *store) error {
	if err := os.MkdirAll(s.local(d.machine.folder, ""), 0o755); err != nil {
		return err
	}
	name := d.base
	if _, err := os.Stat(s.local(d.machine.folder, name+".vmdk")); err == nil {
		name = d.machine.freeName(s)
	}
	if err := d.disk.Move(s.local(d.machine.folder, ""), name); err != nil {
		return err
	}
	d.base, d.store = name, s
	d.machine.vc.usage.move(d.disk, s)
	return nil
}

func (m *machine) moveHome(s *store) error {
	if err := os.MkdirAll(s.local(m.folder, ""), 0o755); err != nil {
		return err
	}
	files := []string{m.folder + ".vmx", m.folder + ".nvram", "vmware.log"}
	m.walk(func(x *snapshot) { files = append(files, x.file) })
	for _, f := range files {
		if err := os.Rename(m.home.local(m.folder, f), s.local(m.folder, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	m.home = s
	return nil
}

// rehost changes the lists of the hosts and pools.
func (v *VC) rehost(m *machine, to *host) {
	v.listHost(m.host, m.ref, false)
	m.host = to
	v.listHost(to, m.ref, true)
	pool := to.pool
	v.update(m.vm, set("resourcePool", &pool))
}
