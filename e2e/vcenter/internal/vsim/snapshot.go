package vsim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/disk"
)

type snapshotRequest struct {
	name, text string
	memory     bool
	quiesce    types.BaseVirtualMachineGuestQuiesceSpec
}

// CreateSnapshotTask is the older form, with quiescing on or off.
func (f *front) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	r := snapshotRequest{name: req.Name, text: req.Description, memory: req.Memory}
	if req.Quiesce {
		r.quiesce = &types.VirtualMachineGuestQuiesceSpec{}
	}
	ref, fault := f.vc.createSnapshot(ctx.Session.UserName, req.This, "CreateSnapshot_Task", "createSnapshot", r)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: ref}}
}

// CreateSnapshotExTask takes a snapshot.
func (f *front) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	r := snapshotRequest{name: req.Name, text: req.Description, memory: req.Memory, quiesce: req.QuiesceSpec}
	ref, fault := f.vc.createSnapshot(ctx.Session.UserName, req.This, "CreateSnapshotEx_Task", "createSnapshotEx", r)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: ref}}
}

func (v *VC) createSnapshot(user string, vm types.ManagedObjectReference, method, id string, r snapshotRequest) (
	types.ManagedObjectReference, types.BaseMethodFault) {
	m, fault := v.machineOf(vm)
	if fault != nil {
		return vm, fault
	}
	// "%" must come escaped; a snapshot's name has at most 80 characters (API reference, CreateSnapshotEx_Task).
	if r.name == "" || len(r.name) > 80 || strings.Contains(unescaped(r.name), "%") {
		return vm, say(&types.InvalidName{Name: r.name, Entity: &m.ref}, "", "The name '"+r.name+"' is invalid: 1 to 80 characters, % written as %25")
	}
	if m.decl.FaultTolerance {
		return vm, notSupported("snapshots of a machine with Fault Tolerance are not supported")
	}
	if q := r.quiesce; q != nil {
		if t := q.GetVirtualMachineGuestQuiesceSpec().Timeout; t != 0 && (t < 5 || t > 240) {
			return vm, invalidArgument("quiesceSpec.timeout")
		}
	}
	return v.start(job{
		method: method, id: id, entity: m.vm, entityName: m.title(), user: user, machine: m, cancelable: true,
		work: func() (types.AnyType, types.BaseMethodFault) {
			s, fault := m.freeze(r)
			if fault != nil {
				return nil, fault
			}
			return s.ref, nil
		},
	})
}

// unescaped takes vSphere's escapes (%25, %2f, %5c) out of a name.
func unescaped(name string) string {
	return strings.NewReplacer("%25", "", "%2f", "", "%2F", "", "%5c", "", "%5C", "").Replace(name)
}

// mayFreeze refuses what a host refuses. The machine's lock is held, here and below.
func (m *machine) mayFreeze(r snapshotRequest) types.BaseMethodFault {
	if fault := m.ready(); fault != nil {
		return fault
	}
	if m.decl.Template {
		return invalidState("a template has no snapshots")
	}
	depth := 1
	if m.current != nil {
		depth += m.current.depth()
	}
	if depth > m.vc.inv.Settings.MaxSnapshotDepth {
		return say(&types.TooManySnapshotLevels{}, "", fmt.Sprintf("The chain has %d snapshots, the supported maximum", depth-1))
	}
	for i, c := range m.decl.Controllers {
		if c.SharedBus != "none" && slices.ContainsFunc(m.disks, func(d *vdisk) bool { return d.controller == i }) {
			return incompatible(&types.SharedBusControllerNotSupported{}, "The controller "+fmt.Sprint(i)+" shares its bus: no snapshot")
		}
	}
	for _, d := range m.disks {
		if d.spec.MultiWriter {
			return incompatible(&types.DeviceNotSupported{Device: d.label}, d.label+" is shared (multi-writer): no snapshot")
		}
	}
	if r.memory && m.running() {
		for _, d := range m.disks {
			switch {
			case d.spec.RDM == "physical":
				return incompatible(&types.RawDiskNotSupported{}, d.label+" is a raw device in physical mode: no snapshot with memory")
			case strings.HasPrefix(d.spec.Mode, "independent"):
				return say(&types.MemorySnapshotOnIndependentDisk{}, "", d.label+" is independent: no snapshot with memory")
			}
		}
	}
	// Quiescing needs a running guest with Tools; without it the spec is ignored (API reference, quiesceSpec).
	if r.quiesce != nil && m.toolsRunning() == types.VirtualMachineToolsRunningStatusGuestToolsRunning {
		switch m.decl.QuiesceFails {
		case "application":
			return say(&types.ApplicationQuiesceFault{}, "", "An error occurred while quiescing the virtual machine: pre-freeze script failed")
		case "filesystem":
			return say(&types.FilesystemQuiesceFault{}, "", "The guest did not hold its I/O until the snapshot was taken")
		}
	}
	need := map[*store]int64{}
	for _, d := range m.disks {
		if d.snapshots() {
			need[d.store] += int64(m.vc.inv.Settings.SnapshotReserve)
		}
	}
	for s, n := range need {
		if s.free() < n {
			return s.noSpace(s.path(m.folder, m.folder+".vmsn"))
		}
	}
	return nil
}

func incompatible(cause types.BaseMethodFault, text string) types.BaseMethodFault {
	return say(&types.SnapshotIncompatibleDeviceInVm{Fault: types.LocalizedMethodFault{Fault: cause, LocalizedMessage: text}}, "", text)
}

// freeze takes the snapshot: all disks at one moment, as the guest is stunned meanwhile.
func (m *machine) freeze(r snapshotRequest) (*snapshot, types.BaseMethodFault) {
	if fault := m.mayFreeze(r); fault != nil {
		return nil, fault
	}
	v := m.vc
	s := &snapshot{
		machine: m, ref: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: fmt.Sprintf("snapshot-%d", v.nextKey.Add(1))},
		name: r.name, text: r.text, id: m.snapID + 1, created: time.Now().UTC(), parent: m.current, memory: r.memory,
		power: types.VirtualMachinePowerStatePoweredOff, cbt: m.cbt, frozenAs: fmt.Sprintf("point-%d", m.snapID+1),
		quiesced: r.quiesce != nil && m.toolsRunning() == types.VirtualMachineToolsRunningStatusGuestToolsRunning,
	}
	if r.memory {
		s.power = m.power
	}
	s.file = fmt.Sprintf("%s-Snapshot%d.vmsn", m.folder, s.id)
	s.config = *m.config()
	var done []*vdisk
	for _, d := range m.disks {
		f := frozenDisk{disk: d, capacity: d.disk.Capacity(), frozen: d.snapshots()}
		if f.frozen {
			if err := d.disk.Snapshot(s.point()); err != nil {
				for _, x := range done {
					_ = x.disk.RemoveSnapshot(s.point()) // what was just frozen is thawed; the first error is what counts
				}
				return nil, m.diskFault(d, err)
			}
			done = append(done, d)
			f.changeID = d.disk.ChangeID(s.point())
		}
		s.disks = append(s.disks, f)
	}
	if err := os.WriteFile(m.home.local(m.folder, s.file), []byte("snapshot "+s.name+"\n"), 0o644); err != nil {
		return nil, fileFault(m.home.path(m.folder, s.file), "", err.Error())
	}
	m.snapID = s.id
	s.mo = &simulator.VirtualMachineSnapshot{}
	s.mo.Self, s.mo.Vm = s.ref, m.ref
	if s.parent == nil {
		m.roots = append(m.roots, s)
	} else {
		s.parent.children = append(s.parent.children, s)
	}
	m.current = s
	s.mo.Config = s.render()
	v.reg.Put(s.mo)
	v.mu.Lock()
	v.snaps[s.ref.Value] = s
	v.mu.Unlock()
	m.touch()
	m.showSnapshots()
	m.show()
	v.showSpace()
	return s, nil
}

// diskFault is the fault for an error of the disk engine.
func (m *machine) diskFault(d *vdisk, err error) types.BaseMethodFault {
	if errors.Is(err, disk.ErrNoSpace) {
		return d.store.noSpace(d.path(""))
	}
	return fileFault(d.path(""), "", err.Error())
}

func (m *machine) touch() { m.generated = time.Now().UTC() }

// RemoveSnapshotTask removes a snapshot, and those below it when asked to.
func (f *front) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	merge := req.Consolidate == nil || *req.Consolidate
	var gone []*snapshot
	ref, fault := v.start(job{
		method: "RemoveSnapshot_Task", id: "removeSnapshot", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		// The node leaves the tree first and the merge follows: a client that sees no snapshot any more still has to wait for the task.
		begin: func() types.BaseMethodFault {
			v.mu.RLock()
			s := v.snaps[req.This.Value]
			v.mu.RUnlock()
			if s == nil {
				return notFound(req.This)
			}
			if fault := m.connected(); fault != nil {
				return fault
			}
			gone = m.unlink(s, req.RemoveChildren)
			return nil
		},
		work: func() (types.AnyType, types.BaseMethodFault) { return nil, m.merge(gone, merge) },
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: ref}}
}

// RemoveAllSnapshotsTask removes the whole tree.
func (f *front) RemoveAllSnapshotsTask(ctx *simulator.Context, req *types.RemoveAllSnapshots_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	merge := req.Consolidate == nil || *req.Consolidate
	var gone []*snapshot
	ref, fault := v.start(job{
		method: "RemoveAllSnapshots_Task", id: "removeAllSnapshots", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		begin: func() types.BaseMethodFault {
			if fault := m.connected(); fault != nil {
				return fault
			}
			for len(m.roots) > 0 {
				gone = append(gone, m.unlink(m.roots[0], true)...)
			}
			return nil
		},
		work: func() (types.AnyType, types.BaseMethodFault) { return nil, m.merge(gone, merge) },
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}}
}

// unlink takes a snapshot (with all below it) out of the tree; its children go to its parent. It returns what went, the oldest first.
func (m *machine) unlink(s *snapshot, below bool) []*snapshot {
	v := m.vc
	gone := []*snapshot{s}
	if below {
		var down func(*snapshot)
		down = func(x *snapshot) {
			for _, c := range x.children {
				gone = append(gone, c)
				down(c)
			}
		}
		down(s)
		s.children = nil
	}
	siblings := &m.roots
	if s.parent != nil {
		siblings = &s.parent.children
	}
	at := slices.Index(*siblings, s)
	*siblings = slices.Replace(slices.Clone(*siblings), at, at+1, s.children...)
	for _, c := range s.children {
		c.parent = s.parent
	}
	if slices.Contains(gone, m.current) {
		m.current = s.parent
	}
	v.mu.Lock()
	for _, x := range gone {
		delete(v.snaps, x.ref.Value)
	}
	v.mu.Unlock()
	m.touch()
	m.show()
	for _, x := range gone {
		v.reg.Remove(v.ctx(), x.ref)
		_ = os.Remove(m.home.local(m.folder, x.file)) // it may have gone with a storage vMotion that failed
	}
	return gone
}

// merge merges the deltas of removed snapshots. A disk that a reader holds open cannot be merged: its layers stay, and the machine needs
// consolidation, while the task succeeds (KB 2003638).
func (m *machine) merge(gone []*snapshot, consolidate bool) types.BaseMethodFault {
	var fault types.BaseMethodFault
	for _, s := range gone {
		for _, f := range s.disks {
			if !f.frozen {
				continue
			}
			if !consolidate || m.vc.handles.anyOn(f.disk) || len(f.disk.kept) > 0 || m.leave {
				f.disk.kept = append(f.disk.kept, s.point())
				continue
			}
			if err := f.disk.disk.RemoveSnapshot(s.point()); err != nil && fault == nil {
				fault = m.diskFault(f.disk, err)
			}
		}
	}
	m.leave = false
	m.stun()
	m.settle()
	return fault
}

// settle renders what a change of the disks' chains changes.
func (m *machine) settle() {
	m.needs = m.stuck || slices.ContainsFunc(m.disks, func(d *vdisk) bool { return len(d.kept) > 0 || d.disk.NeedsConsolidation() })
	m.touch()
	m.showSnapshots()
	m.show()
	m.vc.showSpace()
}

// ConsolidateVMDisksTask merges what a removal left behind.
func (f *front) ConsolidateVMDisksTask(ctx *simulator.Context, req *types.ConsolidateVMDisks_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	ref, fault := v.start(job{
		method: "ConsolidateVMDisks_Task", id: "consolidateDisks", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		work: func() (types.AnyType, types.BaseMethodFault) {
			if fault := m.connected(); fault != nil {
				return nil, fault
			}
			return nil, m.consolidate()
		},
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: ref}}
}

func (m *machine) consolidate() types.BaseMethodFault {
	if m.tries > 0 {
		m.tries--
		return say(&types.FileLocked{FileFault: types.FileFault{File: m.home.path(m.folder, m.folder+".vmdk")}}, "msg.fileio.lock",
			"An error occurred while consolidating disks: Failed to lock the file")
	}
	m.stuck = false
	for _, d := range m.disks {
		if (len(d.kept) > 0 || d.disk.NeedsConsolidation()) && m.vc.handles.anyOn(d) {
			return say(&types.FileLocked{FileFault: types.FileFault{File: d.path("")}}, "msg.fileio.lock",
				"An error occurred while consolidating disks: Failed to lock the file '"+d.path("")+"'")
		}
	}
	for _, d := range m.disks {
		for _, p := range d.kept {
			if err := d.disk.RemoveSnapshot(p); err != nil && !errors.Is(err, disk.ErrNoSuchPoint) {
				return m.diskFault(d, err)
			}
		}
		d.kept = nil
		if d.disk.NeedsConsolidation() {
			if err := d.disk.Consolidate(); err != nil {
				return m.diskFault(d, err)
			}
		}
	}
	m.stun()
	m.settle()
	return nil
}

// RevertToSnapshotTask goes back to a snapshot.
func (f *front) RevertToSnapshotTask(ctx *simulator.Context, req *types.RevertToSnapshot_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	ref, fault := v.start(job{
		method: "RevertToSnapshot_Task", id: "revertToSnapshot", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		work: func() (types.AnyType, types.BaseMethodFault) {
			v.mu.RLock()
			s := v.snaps[req.This.Value]
			v.mu.RUnlock()
			if s == nil {
				return nil, notFound(req.This)
			}
			return nil, m.revert(s, false)
		},
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.RevertToSnapshot_TaskBody{Res: &types.RevertToSnapshot_TaskResponse{Returnval: ref}}
}

// RevertToCurrentSnapshotTask goes back to the current one.
func (f *front) RevertToCurrentSnapshotTask(ctx *simulator.Context, req *types.RevertToCurrentSnapshot_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	m.mu.Lock()
	none := m.current == nil
	m.mu.Unlock()
	if none {
		return refuse("", say(&types.NotFound{}, "", "the machine has no current snapshot"))
	}
	ref, fault := v.start(job{
		method: "RevertToCurrentSnapshot_Task", id: "revertToCurrentSnapshot", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		work: func() (types.AnyType, types.BaseMethodFault) {
			if m.current == nil {
				return nil, say(&types.NotFound{}, "", "the machine has no current snapshot")
			}
			return nil, m.revert(m.current, false)
		},
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.RevertToCurrentSnapshot_TaskBody{Res: &types.RevertToCurrentSnapshot_TaskResponse{Returnval: ref}}
}

// revert brings back disks and configuration. hidden is the host that goes on with the same CBT generation.
func (m *machine) revert(s *snapshot, hidden bool) types.BaseMethodFault {
	if fault := m.connected(); fault != nil {
		return fault
	}
	for _, f := range s.disks {
		if f.frozen && m.vc.handles.current(f.disk) {
			return say(&types.FileLocked{FileFault: types.FileFault{File: f.disk.path("")}}, "msg.fileio.lock", "Failed to lock the file")
		}
	}
	was := m.disks
	m.disks = nil
	for _, f := range s.disks {
		m.disks = append(m.disks, f.disk)
		if !f.frozen {
			continue
		}
		if err := f.disk.disk.Revert(s.point(), hidden); err != nil {
			m.disks = was
			return m.diskFault(f.disk, err)
		}
	}
	for _, d := range was {
		if !slices.Contains(m.disks, d) {
			// It was added after the snapshot: a host takes it out of the configuration and leaves its file.
			m.vc.usage.remove(d.disk)
			_ = d.disk.Close()
		}
	}
	m.current = s
	m.power = s.power
	m.bootTime = nil
	if m.power == on {
		m.bootTime = types.NewTime(time.Now().UTC())
	}
	m.cbt = s.cbt
	m.track(m.cbt)
	m.shutdown++
	m.settle()
	return nil
}

// RenameSnapshot changes name and description.
func (f *front) RenameSnapshot(_ *simulator.Context, req *types.RenameSnapshot) soap.HasFault {
	m, fault := f.vc.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.walk(func(s *snapshot) {
		if s.ref == req.This {
			if req.Name != "" {
				s.name = req.Name
			}
			if req.Description != "" {
				s.text = req.Description
			}
		}
	})
	m.show()
	return &methods.RenameSnapshotBody{Res: new(types.RenameSnapshotResponse)}
}

// freeName is the name of a new disk, as vCenter picks it: vm.vmdk, vm_1.vmdk, vm_2.vmdk, ...
func (m *machine) freeName(s *store) string {
	for n := 0; ; n++ {
		name := m.folder
		if n > 0 {
			name = fmt.Sprintf("%s_%d", m.folder, n)
		}
		if _, err := os.Stat(filepath.Join(s.dir, m.folder, name+".vmdk")); err != nil {
			return name
		}
	}
}
