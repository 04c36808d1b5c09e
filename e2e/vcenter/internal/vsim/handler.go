package vsim

import (
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func vimName(value any) string {
	t := reflect.TypeOf(value)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return ""
	}
	return t.Name()
}

// front answers the calls that this package knows; the receiver of a call stands in its body's This.
type front struct {
	Self types.ManagedObjectReference
	vc   *VC
}

// Reference is in no registry, so that a session does not find the real object in its place.
func (*front) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "SimulatorFront", Value: "front"}
}

// Lock and Unlock do nothing: calls of different clients run side by side, each takes the locks it needs.
func (*front) Lock() {}

// Unlock does nothing, see Lock.
func (*front) Unlock() {}

// served are the calls that front answers, by the types they are called on.
var served = map[string][]string{
	"CreateSnapshot_Task":          {"VirtualMachine"},
	"CreateSnapshotEx_Task":        {"VirtualMachine"},
	"RemoveAllSnapshots_Task":      {"VirtualMachine"},
	"RevertToCurrentSnapshot_Task": {"VirtualMachine"},
	"ConsolidateVMDisks_Task":      {"VirtualMachine"},
	"QueryChangedDiskAreas":        {"VirtualMachine"},
	"ReconfigVM_Task":              {"VirtualMachine"},
	"RelocateVM_Task":              {"VirtualMachine"},
	"MigrateVM_Task":               {"VirtualMachine"},
	"PowerOnVM_Task":               {"VirtualMachine"},
	"PowerOffVM_Task":              {"VirtualMachine"},
	"SuspendVM_Task":               {"VirtualMachine"},
	"ResetVM_Task":                 {"VirtualMachine"},
	"ShutdownGuest":                {"VirtualMachine"},
	"RebootGuest":                  {"VirtualMachine"},
	"AnswerVM":                     {"VirtualMachine"},
	"UnregisterVM":                 {"VirtualMachine"},
	"Destroy_Task":                 {"VirtualMachine"},
	"Rename_Task":                  {"VirtualMachine"},
	"RefreshStorageInfo":           {"VirtualMachine"},
	"RemoveSnapshot_Task":          {"VirtualMachineSnapshot"},
	"RevertToSnapshot_Task":        {"VirtualMachineSnapshot"},
	"RenameSnapshot":               {"VirtualMachineSnapshot"},
	"RegisterVM_Task":              {"Folder"},
	"CancelTask":                   {"Task"},
	"RefreshDatastore":             {"Datastore"},
	"RefreshDatastoreStorageInfo":  {"Datastore"},
	"EnterMaintenanceMode_Task":    {"HostSystem"},
	"ExitMaintenanceMode_Task":     {"HostSystem"},
	"DisconnectHost_Task":          {"HostSystem"},
	"ReconnectHost_Task":           {"HostSystem"},
	"Login":                        {"SessionManager"},
	"Logout":                       {"SessionManager"},
	"CloneSession":                 {"SessionManager"},
	"TerminateSession":             {"SessionManager"},
	"SessionIsActive":              {"SessionManager"},
	"HasPrivilegeOnEntities":       {"AuthorizationManager"},
	"HasPrivilegeOnEntity":         {"AuthorizationManager"},
	"HasUserPrivilegeOnEntities":   {"AuthorizationManager"},
	"FetchUserPrivilegeOnEntities": {"AuthorizationManager"},
	"RetrieveProperties":           {"PropertyCollector"},
	"RetrievePropertiesEx":         {"PropertyCollector"},
	"Fetch":                        {"PropertyCollector"},
	"CreateFilter":                 {"PropertyCollector"},
	"ContinueRetrievePropertiesEx": {"PropertyCollector"},
}

// closed are calls of vSphere that this simulator does not have, and that govmomi's would answer with something that is no longer true of
// these machines. They are refused for everybody.
var closed = []string{
	"CreateVM_Task", "CloneVM_Task", "InstantClone_Task", "ImportVApp", "CreateChildVM_Task", "RegisterChildVM_Task",
	"MarkAsTemplate", "MarkAsVirtualMachine", "UpgradeVM_Task", "AttachDisk_Task", "DetachDisk_Task", "PromoteDisks_Task",
	"ExportVm", "ExportSnapshot", "CustomizeVM_Task", "StandbyGuest", "TerminateVM", "Reload", "reloadVirtualMachineFromPath_Task",
	"CreateSecondaryVM_Task", "CreateSecondaryVMEx_Task", "ResetGuestInformation",
	"DeleteVirtualDisk_Task", "MoveVirtualDisk_Task", "CopyVirtualDisk_Task", "CreateVirtualDisk_Task", "ExtendVirtualDisk_Task",
	"DeleteDatastoreFile_Task", "MoveDatastoreFile_Task", "CopyDatastoreFile_Task",
	"LoginByToken", "LoginExtensionByCertificate", "ImpersonateUser", "LoginBySSPI",
}

// handle is the registry's hook. What it refuses for a session is answered by front, so that the fault comes with its sentence.
func (v *VC) handle(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	who, fault := v.decide(ctx, m)
	if fault == nil || ctx.Session == nil {
		return who, fault
	}
	m.This, m.Name, m.Body = v.front.Reference(), "Refuse", fault
	return v.front, nil
}

// Refuse answers with a fault.
func (f *front) Refuse(fault types.BaseMethodFault) soap.HasFault {
	return refuse(message(fault), fault)
}

// decide sees every call first: it lets injected faults befall it, checks session and privileges, and chooses who answers.
func (v *VC) decide(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if fault := v.inject.call(v, m.Name, m.This); fault != nil {
		return nil, fault
	}
	if ctx.Session == nil {
		if fault := v.anonymous(m); fault != nil {
			return nil, fault
		}
	} else if fault := v.permit(ctx, m); fault != nil {
		return nil, fault
	}
	if slices.Contains(closed, m.Name) {
		if strings.HasPrefix(m.Name, "Login") || m.Name == "ImpersonateUser" {
			return nil, say(&types.InvalidLogin{}, "", "only Login with user and password works in this simulator")
		}
		return nil, notSupported(m.Name + " is not simulated: declare machines and disks in the inventory file, or change them by the control port")
	}
	if slices.Contains(served[m.Name], m.This.Type) {
		if m.This.Type == "VirtualMachine" || m.This.Type == "VirtualMachineSnapshot" {
			vm, fault := v.machineOf(m.This)
			if fault != nil {
				return nil, fault
			}
			if fault := vm.methodDisabled(m.Name); fault != nil {
				return nil, fault
			}
		}
		// A receiver that no registry knows: else the session would answer with the real object.
		m.This = v.front.Reference()
		return v.front, nil
	}
	return nil, nil
}

// machineOf finds the machine of a VM's or a snapshot's reference.
func (v *VC) machineOf(ref types.ManagedObjectReference) (*machine, types.BaseMethodFault) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	switch ref.Type {
	case "VirtualMachine":
		if m := v.machines[ref.Value]; m != nil {
			return m, nil
		}
	case "VirtualMachineSnapshot":
		if s := v.snaps[ref.Value]; s != nil {
			return s.machine, nil
		}
	}
	return nil, notFound(ref)
}
