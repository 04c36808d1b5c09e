package vsim

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	on        = types.VirtualMachinePowerStatePoweredOn
	off       = types.VirtualMachinePowerStatePoweredOff
	suspended = types.VirtualMachinePowerStateSuspended
)

// powerTask runs one of the power operations.
func (v *VC) powerTask(user string, vm types.ManagedObjectReference, method, id string, work func(*machine) types.BaseMethodFault) (
	types.ManagedObjectReference, types.BaseMethodFault) {
	m, fault := v.machineOf(vm)
	if fault != nil {
		return vm, fault
	}
	return v.start(job{method: method, id: id, entity: m.vm, entityName: m.title(), user: user, machine: m,
		work: func() (types.AnyType, types.BaseMethodFault) { return nil, work(m) }})
}

func (m *machine) powerOn() types.BaseMethodFault {
	switch {
	case m.decl.Template:
		return invalidState("a template cannot be powered on")
	case m.power == on:
		return powerFault(m.power, on)
	case m.host.inMaintenance():
		return invalidState("The operation is not allowed: host " + m.host.name + " is in maintenance mode")
	}
	if fault := m.ready(); fault != nil {
		return fault
	}
	// Power-on and resume are stuns: what was asked of change tracking takes effect.
	m.stun()
	m.setPower(on)
	return nil
}

func (m *machine) powerOff() types.BaseMethodFault {
	if fault := m.connected(); fault != nil {
		return fault
	}
	if m.power == off {
		return powerFault(m.power, off)
	}
	m.question = nil
	m.setPower(off)
	return nil
}

func (m *machine) setPower(p types.VirtualMachinePowerState) {
	m.power = p
	m.shutdown++
	m.bootTime = nil
	if p == on {
		m.bootTime = types.NewTime(time.Now().UTC())
	}
	m.touch()
	m.show()
}

// PowerOnVMTask powers a machine on.
func (f *front) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	ref, fault := f.vc.powerTask(ctx.Session.UserName, req.This, "PowerOnVM_Task", "powerOn", (*machine).powerOn)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: ref}}
}

// PowerOffVMTask powers a machine off.
func (f *front) PowerOffVMTask(ctx *simulator.Context, req *types.PowerOffVM_Task) soap.HasFault {
	ref, fault := f.vc.powerTask(ctx.Session.UserName, req.This, "PowerOffVM_Task", "powerOff", (*machine).powerOff)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: ref}}
}

// SuspendVMTask suspends a machine.
func (f *front) SuspendVMTask(ctx *simulator.Context, req *types.SuspendVM_Task) soap.HasFault {
	ref, fault := f.vc.powerTask(ctx.Session.UserName, req.This, "SuspendVM_Task", "suspend", func(m *machine) types.BaseMethodFault {
		if fault := m.ready(); fault != nil {
			return fault
		}
		if m.power != on {
			return powerFault(m.power, on)
		}
		m.setPower(suspended)
		return nil
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: ref}}
}

// ResetVMTask resets a machine: a stun of its own kind, the power stays on.
func (f *front) ResetVMTask(ctx *simulator.Context, req *types.ResetVM_Task) soap.HasFault {
	ref, fault := f.vc.powerTask(ctx.Session.UserName, req.This, "ResetVM_Task", "reset", func(m *machine) types.BaseMethodFault {
		if fault := m.ready(); fault != nil {
			return fault
		}
		if m.power != on {
			return powerFault(m.power, on)
		}
		m.setPower(on)
		return nil
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: ref}}
}

// guestCall refuses what needs a running guest with Tools.
func (v *VC) guestCall(vm types.ManagedObjectReference, do func(*machine)) types.BaseMethodFault {
	m, fault := v.machineOf(vm)
	if fault != nil {
		return fault
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.power != on:
		return powerFault(m.power, on)
	case m.toolsRunning() != types.VirtualMachineToolsRunningStatusGuestToolsRunning:
		return say(&types.ToolsUnavailable{}, "", "Cannot complete operation because VMware Tools is not running in this virtual machine.")
	}
	if fault := m.ready(); fault != nil {
		return fault
	}
	do(m)
	return nil
}

// ShutdownGuest asks the guest to shut down: the answer says only that it was asked, the power goes off later.
func (f *front) ShutdownGuest(_ *simulator.Context, req *types.ShutdownGuest) soap.HasFault {
	v := f.vc
	fault := v.guestCall(req.This, func(m *machine) {
		started := m.shutdown
		v.background(func() {
			if !v.sleep(v.timing.guest()) {
				return
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.shutdown == started && m.power == on {
				m.setPower(off)
			}
		})
	})
	if fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.ShutdownGuestBody{Res: new(types.ShutdownGuestResponse)}
}

// RebootGuest asks the guest to start anew.
func (f *front) RebootGuest(_ *simulator.Context, req *types.RebootGuest) soap.HasFault {
	if fault := f.vc.guestCall(req.This, func(m *machine) { m.setPower(on) }); fault != nil {
		return refuse(message(fault), fault)
	}
	return &methods.RebootGuestBody{Res: new(types.RebootGuestResponse)}
}

// AnswerVM answers the question of a machine that waits.
func (f *front) AnswerVM(_ *simulator.Context, req *types.AnswerVM) soap.HasFault {
	m, fault := f.vc.machineOf(req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.question == nil || m.question.Id != req.QuestionId {
		return refuse("", invalidArgument("questionId"))
	}
	m.question = nil
	if req.AnswerChoice == "1" {
		m.power = off // "Cancel" ends the session
	}
	m.show()
	return &methods.AnswerVMBody{Res: new(types.AnswerVMResponse)}
}

// ask stops the machine with the question that a host asks when a datastore is full (KB 1002103): retry, or power off.
func (m *machine) ask(s *store) {
	m.question = &types.VirtualMachineQuestionInfo{
		Id:   "msg.hbacommon.outofspace",
		Text: "There is no more space for virtual disk on datastore " + s.name + ". You might be able to continue this session by freeing disk space.",
		Choice: types.ChoiceOption{ChoiceInfo: []types.BaseElementDescription{
			&types.ElementDescription{Key: "0", Description: types.Description{Label: "Retry", Summary: "Retry"}},
			&types.ElementDescription{Key: "1", Description: types.Description{Label: "Cancel", Summary: "Cancel"}},
		}},
	}
	m.show()
}

// setPowerNow is a power change that no call asked for: a guest that shuts itself down, a host that fails.
func (m *machine) setPowerNow(p types.VirtualMachinePowerState) types.BaseMethodFault {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.power == p:
		return nil
	case p == on:
		return m.powerOn()
	case p == off:
		return m.powerOff()
	}
	m.setPower(p)
	return nil
}
