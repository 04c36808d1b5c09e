package vsim

import (
	"fmt"
	"os"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// UnregisterVM takes a machine out of the inventory and leaves its files.
func (f *front) UnregisterVM(_ *simulator.Context, req *types.UnregisterVM) soap.HasFault {
	m, fault := f.vc.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.power != off {
		fault := powerFault(m.power, off)
		return refuse(message(fault), fault)
	}
	f.vc.leave(m)
	return &methods.UnregisterVMBody{Res: new(types.UnregisterVMResponse)}
}

// DestroyTask deletes a machine with its files.
func (f *front) DestroyTask(ctx *simulator.Context, req *types.Destroy_Task) soap.HasFault {
	v := f.vc
	m, fault := v.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	ref, fault := v.start(job{
		method: "Destroy_Task", id: "destroy", entity: m.vm, entityName: m.title(), user: ctx.Session.UserName, machine: m,
		work: func() (types.AnyType, types.BaseMethodFault) { return nil, m.destroy() },
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: ref}}
}

func (m *machine) destroy() types.BaseMethodFault {
	if fault := m.connected(); fault != nil {
		return fault
	}
	if m.power != off {
		return powerFault(m.power, off)
	}
	m.vc.unplace(m)
	m.vc.handles.dropMachine(m)
	all := map[*vdisk]bool{}
	for _, d := range m.disks {
		all[d] = true
	}
	m.walk(func(s *snapshot) {
		for _, f := range s.disks {
			all[f.disk] = true
		}
	})
	dirs := map[string]bool{m.home.local(m.folder, ""): true}
	for d := range all {
		m.vc.usage.remove(d.disk)
		dirs[d.store.local(m.folder, "")] = true
		if err := d.disk.Remove(); err != nil {
			return m.diskFault(d, err)
		}
	}
	for dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return fileFault(dir, "", err.Error())
		}
	}
	m.vc.showSpace()
	return nil
}

// unplace takes a machine and its snapshots out of the inventory. The machine's lock is held.
func (v *VC) unplace(m *machine) {
	m.unplaced = true
	v.mu.Lock()
	delete(v.machines, m.ref.Value)
	m.walk(func(s *snapshot) { delete(v.snaps, s.ref.Value) })
	v.mu.Unlock()
	v.listHost(m.host, m.ref, false)
	v.listStores(m.ref, m.stores(), false)
	for _, n := range m.nics {
		v.list(n.network.mo, &n.network.mo.Vm, "vm", m.ref, false)
	}
	if folder, ok := v.reg.Get(*m.vm.Parent).(*simulator.Folder); ok {
		v.list(folder, &folder.ChildEntity, "childEntity", m.ref, false)
	}
	m.walk(func(s *snapshot) { v.reg.Remove(v.ctx(), s.ref) })
	v.reg.Remove(v.ctx(), m.ref)
}

// leave takes a machine out of the inventory and remembers it for RegisterVM. The machine's lock is held.
func (v *VC) leave(m *machine) {
	v.unplace(m)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.left[m.home.path(m.folder, m.folder+".vmx")] = m
}

// RegisterVMTask takes a machine that was unregistered into the inventory again: under another reference, with the same UUIDs.
func (f *front) RegisterVMTask(ctx *simulator.Context, req *types.RegisterVM_Task) soap.HasFault {
	v := f.vc
	folder, ok := v.reg.Get(req.This).(*simulator.Folder)
	if !ok || req.AsTemplate {
		fault := notSupported("only machines can be registered here, in folders of machines")
		return refuse(message(fault), fault)
	}
	ref, fault := v.start(job{
		method: "RegisterVM_Task", id: "registerVm", entity: folder, entityName: folder.Name, user: ctx.Session.UserName,
		work: func() (types.AnyType, types.BaseMethodFault) { return v.register(req, folder) },
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.RegisterVM_TaskBody{Res: &types.RegisterVM_TaskResponse{Returnval: ref}}
}

func (v *VC) register(req *types.RegisterVM_Task, folder *simulator.Folder) (types.AnyType, types.BaseMethodFault) {
	v.mu.Lock()
	m := v.left[req.Path]
	delete(v.left, req.Path)
	v.mu.Unlock()
	if m == nil {
		for _, x := range v.allMachines() {
			if x.home.path(x.folder, x.folder+".vmx") == req.Path {
				return nil, say(&types.AlreadyExists{Name: req.Path}, "", "The machine is registered already")
			}
		}
		return nil, say(&types.NotFound{}, "", "There is no "+req.Path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if req.Host != nil {
		h := v.hostByRef(*req.Host)
		if h == nil || h.dc != m.dc {
			return nil, invalidArgument("host")
		}
		m.host = h
	}
	if req.Name != "" {
		v.mu.Lock()
		m.name = req.Name
		v.mu.Unlock()
	}
	m.vm, m.unplaced = &simulator.VirtualMachine{}, false
	v.reg.NewEntity(m.vm)
	m.ref = m.vm.Self
	for _, d := range m.disks {
		d.disk.ResetTracking() // a host that does not know the tracking files begins anew
	}
	m.walk(func(s *snapshot) {
		s.ref.Value = fmt.Sprintf("snapshot-%d", v.nextKey.Add(1))
		s.mo = &simulator.VirtualMachineSnapshot{}
		s.mo.Self, s.mo.Vm = s.ref, m.ref
	})
	v.mu.Lock()
	v.machines[m.ref.Value] = m
	m.walk(func(s *snapshot) { v.snaps[s.ref.Value] = s })
	v.mu.Unlock()
	m.walk(func(s *snapshot) {
		s.mo.Config = s.render()
		v.reg.Put(s.mo)
	})
	m.fillObject()
	v.place(m, folder)
	m.settle()
	return m.ref, nil
}

// list puts a machine on, or takes it off, an object's list of machines.
func (v *VC) list(obj mo.Reference, list *[]types.ManagedObjectReference, name string, ref types.ManagedObjectReference, on bool) {
	ctx := v.ctx()
	ctx.WithLock(obj, func() {
		now := slices.DeleteFunc(slices.Clone(*list), func(r types.ManagedObjectReference) bool { return r == ref })
		if on {
			now = append(now, ref)
		}
		if len(now) != len(*list) {
			ctx.Update(obj, []types.PropertyChange{set(name, now)})
		}
	})
}

// place puts a machine's object into a folder, and on the lists of its host, pool, datastores and networks.
func (v *VC) place(m *machine, folder *simulator.Folder) {
	v.reg.PutEntity(folder, m.vm)
	v.list(folder, &folder.ChildEntity, "childEntity", m.ref, true)
	v.listHost(m.host, m.ref, true)
	v.listStores(m.ref, m.stores(), true)
	for _, n := range m.nics {
		v.list(n.network.mo, &n.network.mo.Vm, "vm", m.ref, true)
	}
}

func (v *VC) listHost(h *host, ref types.ManagedObjectReference, on bool) {
	v.list(h.hs, &h.hs.Vm, "vm", ref, on)
	if pool, ok := v.reg.Get(h.pool).(*simulator.ResourcePool); ok {
		v.list(pool, &pool.Vm, "vm", ref, on)
	}
}

func (v *VC) listStores(ref types.ManagedObjectReference, stores []types.ManagedObjectReference, on bool) {
	for _, s := range stores {
		ds := v.reg.Get(s).(*simulator.Datastore)
		v.list(ds, &ds.Vm, "vm", ref, on)
	}
}
