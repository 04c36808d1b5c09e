package vsim

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// refusal answers any call with a fault.
type refusal struct{ reason *soap.Fault }

// Fault is the fault, for the simulator's encoder.
func (r *refusal) Fault() *soap.Fault { return r.reason }

func refuse(message string, fault types.BaseMethodFault) soap.HasFault {
	return &refusal{simulator.Fault(message, fault)}
}

// say puts a sentence into a fault, as vCenter does: under a key for programs, in the installation's language for people.
func say[F types.BaseMethodFault](fault F, key, message string) F {
	f := fault.GetMethodFault()
	f.FaultMessage = append(f.FaultMessage, types.LocalizableMessage{Key: key, Message: message})
	return fault
}

func message(fault types.BaseMethodFault) string {
	if f := fault.GetMethodFault(); f != nil && len(f.FaultMessage) > 0 {
		return f.FaultMessage[0].Message
	}
	return typeName(fault)
}

func notFound(ref types.ManagedObjectReference) types.BaseMethodFault {
	return say(&types.ManagedObjectNotFound{Obj: ref}, "",
		"The object '"+ref.Type+":"+ref.Value+"' has already been deleted or has not been completely created")
}

func invalidArgument(property string) types.BaseMethodFault {
	return say(&types.InvalidArgument{InvalidProperty: property}, "", "A specified parameter was not correct: "+property)
}

func notSupported(why string) types.BaseMethodFault {
	return say(&types.NotSupported{}, "", why)
}

func invalidState(why string) types.BaseMethodFault {
	return say(&types.InvalidState{}, "", why)
}

func powerFault(is, wants types.VirtualMachinePowerState) types.BaseMethodFault {
	return say(&types.InvalidPowerState{RequestedState: wants, ExistingState: is}, "",
		"The attempted operation cannot be performed in the current state ("+string(is)+")")
}

func fileFault(file, key, text string) types.BaseMethodFault {
	return say(&types.FileFault{File: file}, key, text)
}

// typeName is the vSphere name of a fault's type.
func typeName(fault any) string {
	return vimName(fault)
}
