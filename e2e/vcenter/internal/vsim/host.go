package vsim

import (
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// host is one ESXi host.
type host struct {
	vc   *VC
	ref  types.ManagedObjectReference
	name string
	decl Host
	hs   *simulator.HostSystem
	pool types.ManagedObjectReference
	dc   *simulator.Datacenter

	mu          sync.Mutex
	state       types.HostSystemConnectionState
	maintenance bool
}

func (h *host) inMaintenance() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.maintenance
}

// setState connects or disconnects a host; its machines' connection state follows, and VDDK's handles on it are lost.
func (h *host) setState(state types.HostSystemConnectionState) {
	h.mu.Lock()
	h.state = state
	h.mu.Unlock()
	h.vc.update(h.hs, set("runtime.connectionState", state), set("summary.runtime.connectionState", state))
	if state != types.HostSystemConnectionStateConnected {
		h.vc.handles.dropHost(h)
	}
	for _, m := range h.vc.allMachines() {
		m.mu.Lock()
		if m.host == h {
			m.vc.update(m.vm, set("runtime", m.runtime()), set("summary", m.summary()))
		}
		m.mu.Unlock()
	}
}

func (h *host) setMaintenance(on bool) {
	h.mu.Lock()
	h.maintenance = on
	h.mu.Unlock()
	h.vc.update(h.hs, set("runtime.inMaintenanceMode", on), set("summary.runtime.inMaintenanceMode", on))
}

func (v *VC) hostByRef(ref types.ManagedObjectReference) *host {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, h := range v.hosts {
		if h.ref == ref {
			return h
		}
	}
	return nil
}

func (v *VC) hostTask(ctx *simulator.Context, ref types.ManagedObjectReference, method, id string, work func(*host) types.BaseMethodFault) (
	types.ManagedObjectReference, types.BaseMethodFault) {
	h := v.hostByRef(ref)
	if h == nil {
		return ref, notFound(ref)
	}
	return v.start(job{method: method, id: id, entity: h.hs, entityName: h.name, user: ctx.Session.UserName,
		work: func() (types.AnyType, types.BaseMethodFault) { return nil, work(h) }})
}

// EnterMaintenanceModeTask is refused while machines run on the host: nothing here moves them away.
func (f *front) EnterMaintenanceModeTask(ctx *simulator.Context, req *types.EnterMaintenanceMode_Task) soap.HasFault {
	ref, fault := f.vc.hostTask(ctx, req.This, "EnterMaintenanceMode_Task", "enterMaintenanceMode", func(h *host) types.BaseMethodFault {
		if h.inMaintenance() {
			return invalidState(h.name + " is in maintenance mode already")
		}
		for _, m := range f.vc.allMachines() {
			m.mu.Lock()
			on := m.host == h && m.running()
			m.mu.Unlock()
			if on {
				// A real host waits for them until the task's time-out.
				return say(&types.Timedout{}, "", m.title()+" still runs on "+h.name+": move it or switch it off first")
			}
		}
		h.setMaintenance(true)
		return nil
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.EnterMaintenanceMode_TaskBody{Res: &types.EnterMaintenanceMode_TaskResponse{Returnval: ref}}
}

// ExitMaintenanceModeTask ends it.
func (f *front) ExitMaintenanceModeTask(ctx *simulator.Context, req *types.ExitMaintenanceMode_Task) soap.HasFault {
	ref, fault := f.vc.hostTask(ctx, req.This, "ExitMaintenanceMode_Task", "exitMaintenanceMode", func(h *host) types.BaseMethodFault {
		if !h.inMaintenance() {
			return invalidState(h.name + " is not in maintenance mode")
		}
		h.setMaintenance(false)
		return nil
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.ExitMaintenanceMode_TaskBody{Res: &types.ExitMaintenanceMode_TaskResponse{Returnval: ref}}
}

// DisconnectHostTask cuts the host off from vCenter.
func (f *front) DisconnectHostTask(ctx *simulator.Context, req *types.DisconnectHost_Task) soap.HasFault {
	ref, fault := f.vc.hostTask(ctx, req.This, "DisconnectHost_Task", "disconnect", func(h *host) types.BaseMethodFault {
		h.setState(types.HostSystemConnectionStateDisconnected)
		return nil
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.DisconnectHost_TaskBody{Res: &types.DisconnectHost_TaskResponse{Returnval: ref}}
}

// ReconnectHostTask brings it back.
func (f *front) ReconnectHostTask(ctx *simulator.Context, req *types.ReconnectHost_Task) soap.HasFault {
	ref, fault := f.vc.hostTask(ctx, req.This, "ReconnectHost_Task", "reconnect", func(h *host) types.BaseMethodFault {
		h.setState(types.HostSystemConnectionStateConnected)
		return nil
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.ReconnectHost_TaskBody{Res: &types.ReconnectHost_TaskResponse{Returnval: ref}}
}
