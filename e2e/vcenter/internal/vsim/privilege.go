package vsim

import (
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// user is one account.
type user struct {
	name     string
	password string
	// grants by entity. The nearest one on the way up decides, as in vCenter: a permission on a child overrides its parent's.
	grants map[types.ManagedObjectReference]grant
}

type grant struct {
	privileges map[string]bool
	all        bool
	propagate  bool
}

var readOnly = []string{"System.Anonymous", "System.Read", "System.View"}

var privilegeList = sync.OnceValue(func() []string {
	list := append([]string(nil), readOnly...)
	for _, r := range esx.RoleList {
		if r.Name == "Admin" {
			list = append(list, r.Privilege...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
})

func knownPrivilege(id string) bool {
	_, ok := slices.BinarySearch(privilegeList(), id)
	return ok
}

// needs are the privileges of the calls that change something or read data, from the API reference ("Required Privileges" of each method).
// All other known reading calls need System.View only; what is neither is left to who has all privileges.
var needs = map[string]string{
	"CreateSnapshot_Task":            "VirtualMachine.State.CreateSnapshot",
	"CreateSnapshotEx_Task":          "VirtualMachine.State.CreateSnapshot",
	"RemoveSnapshot_Task":            "VirtualMachine.State.RemoveSnapshot",
	"RemoveAllSnapshots_Task":        "VirtualMachine.State.RemoveSnapshot",
	"ConsolidateVMDisks_Task":        "VirtualMachine.State.RemoveSnapshot",
	"RevertToSnapshot_Task":          "VirtualMachine.State.RevertToSnapshot",
	"RevertToCurrentSnapshot_Task":   "VirtualMachine.State.RevertToSnapshot",
	"RenameSnapshot":                 "VirtualMachine.State.RenameSnapshot",
	"QueryChangedDiskAreas":          "VirtualMachine.Provisioning.DiskRandomRead",
	"PowerOnVM_Task":                 "VirtualMachine.Interact.PowerOn",
	"PowerOffVM_Task":                "VirtualMachine.Interact.PowerOff",
	"ShutdownGuest":                  "VirtualMachine.Interact.PowerOff",
	"SuspendVM_Task":                 "VirtualMachine.Interact.Suspend",
	"ResetVM_Task":                   "VirtualMachine.Interact.Reset",
	"RebootGuest":                    "VirtualMachine.Interact.Reset",
	"AnswerVM":                       "VirtualMachine.Interact.AnswerQuestion",
	"RegisterVM_Task":                "VirtualMachine.Inventory.Register",
	"UnregisterVM":                   "VirtualMachine.Inventory.Unregister",
	"ExportVm":                       "VApp.Export",
	"ExportSnapshot":                 "VApp.Export",
	"EnterMaintenanceMode_Task":      "Host.Config.Maintenance",
	"ExitMaintenanceMode_Task":       "Host.Config.Maintenance",
	"DisconnectHost_Task":            "Host.Config.Connection",
	"ReconnectHost_Task":             "Host.Config.Connection",
	"TerminateSession":               "Sessions.TerminateSession",
	"SessionIsActive":                "Sessions.ValidateSession",
	"CancelTask":                     "Global.CancelTask",
	"SearchDatastore_Task":           "Datastore.Browse",
	"SearchDatastoreSubFolders_Task": "Datastore.Browse",
	"MakeDirectory":                  "Datastore.FileManagement",
	"DeleteDatastoreFile_Task":       "Datastore.FileManagement",
	"SetEntityPermissions":           "Authorization.ModifyPermissions",
	"RemoveEntityPermission":         "Authorization.ModifyPermissions",
	"AddAuthorizationRole":           "Authorization.ModifyRoles",
	"UpdateAuthorizationRole":        "Authorization.ModifyRoles",
	"RemoveAuthorizationRole":        "Authorization.ModifyRoles",
	"SetCustomValue":                 "Global.SetCustomField",
	"SetField":                       "Global.SetCustomField",
	"AddCustomFieldDef":              "Global.ManageCustomFields",
	"PostEvent":                      "Global.LogEvent",
	"CreateTask":                     "Task.Create",
}

// viewing are calls that need no more than to see the object, by the beginnings of their names.
var viewing = []string{
	"Retrieve", "Find", "CreateContainerView", "CreateListView", "CreateInventoryView", "ModifyListView", "ResetListView",
	"DestroyView", "CreateFilter", "CreatePropertyCollector", "DestroyPropertyCollector", "DestroyPropertyFilter", "WaitFor", "CheckForUpdates",
	"CancelWaitForUpdates", "ContinueRetrieveProperties", "Fetch", "CurrentTime", "Logout", "AcquireCloneTicket", "CloneSession", "Query",
	"HasPrivilege", "HasUserPrivilege", "FetchUserPrivilege", "RefreshDatastore", "RefreshStorageInfo", "ReadNext", "ReadPrevious", "ResetCollector",
	"RewindCollector", "DestroyCollector", "SetCollectorPageSize", "CreateCollectorFor", "SetLocale", "GetAlarm", "RetrieveAllPermissions", "ValidateMigration",
}

// permit checks the privileges of a call's user. What is wrong names the privilege and the object, as vCenter does.
func (v *VC) permit(ctx *simulator.Context, m *simulator.Method) types.BaseMethodFault {
	name := ctx.Session.UserName
	if name == "" {
		return nil // the simulator's own client, in process
	}
	if id := needs[m.Name]; id != "" {
		return v.demand(name, m.This, id)
	}
	switch req := m.Body.(type) {
	case *types.ReconfigVM_Task:
		for _, id := range reconfigNeeds(&req.Spec) {
			if fault := v.demand(name, m.This, id); fault != nil {
				return fault
			}
		}
		return nil
	case *types.RelocateVM_Task, *types.MigrateVM_Task:
		return v.permitRelocate(name, m)
	case *types.Destroy_Task:
		if m.This.Type == "VirtualMachine" {
			return v.demand(name, m.This, "VirtualMachine.Inventory.Delete")
		}
	case *types.Rename_Task:
		if m.This.Type == "VirtualMachine" {
			return v.demand(name, m.This, "VirtualMachine.Config.Rename")
		}
	}
	for _, prefix := range viewing {
		if strings.HasPrefix(m.Name, prefix) {
			return v.demandView(name, m.This)
		}
	}
	if v.hasAll(name) {
		return nil
	}
	return v.noPermission(m.This, "Global.Settings")
}

func (v *VC) noPermission(ref types.ManagedObjectReference, id string) types.BaseMethodFault {
	return say(&types.NoPermission{Object: &ref, PrivilegeId: id}, "", "Permission to perform this operation was denied. Missing: "+id)
}

// entityOf is the entity on which a reference's permissions stand.
func (v *VC) entityOf(ref types.ManagedObjectReference) types.ManagedObjectReference {
	if ref.Type == "VirtualMachineSnapshot" {
		v.mu.RLock()
		defer v.mu.RUnlock()
		if s := v.snaps[ref.Value]; s != nil {
			return s.machine.ref
		}
		return v.root
	}
	switch o := v.reg.Get(ref).(type) {
	case *simulator.Task:
		return *o.Info.Entity
	case *simulator.HostDatastoreBrowser:
		if len(o.Datastore) == 1 {
			return o.Datastore[0]
		}
		return v.root
	case mo.Entity:
		return ref
	}
	return v.root
}

// account is the key of a user: name@domain or DOMAIN\name, without regard to case.
func account(name string) string {
	if domain, user, ok := strings.Cut(name, "\\"); ok {
		name = user + "@" + domain
	}
	return strings.ToLower(name)
}

// grantOn is the grant that holds for a user on an entity.
func (v *VC) grantOn(name string, ref types.ManagedObjectReference) (grant, bool) {
	v.mu.RLock()
	u := v.users[account(name)]
	v.mu.RUnlock()
	if u == nil {
		return grant{}, false
	}
	for first := true; ; first = false {
		if g, ok := u.grants[ref]; ok && (first || g.propagate) {
			return g, true
		}
		e, ok := v.reg.Get(ref).(mo.Entity)
		if !ok || e.Entity().Parent == nil {
			return grant{}, false
		}
		ref = *e.Entity().Parent
	}
}

// anyGrant tells whether a user has access to anything.
func (v *VC) anyGrant(name string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	u := v.users[account(name)]
	if u == nil {
		return false
	}
	for _, g := range u.grants {
		if g.all || len(g.privileges) > 0 {
			return true
		}
	}
	return false
}

// has tells whether a user holds a privilege on what a reference stands for.
func (v *VC) has(name string, ref types.ManagedObjectReference, id string) bool {
	g, ok := v.grantOn(name, v.entityOf(ref))
	return ok && (g.all || g.privileges[id])
}

func (v *VC) hasAll(name string) bool {
	g, ok := v.grantOn(name, v.root)
	return ok && g.all
}

func (v *VC) demand(name string, ref types.ManagedObjectReference, id string) types.BaseMethodFault {
	if v.has(name, ref, id) {
		return nil
	}
	entity := v.entityOf(ref)
	return v.noPermission(entity, id)
}

// demandView lets through who sees an entity; what is no entity of the inventory is open to all who are logged in.
func (v *VC) demandView(name string, ref types.ManagedObjectReference) types.BaseMethodFault {
	if _, entity := v.reg.Get(ref).(mo.Entity); !entity {
		return nil
	}
	return v.demand(name, ref, "System.View")
}

// privileges answers the three forms of the same question.
func (v *VC) privileges(name string, entities []types.ManagedObjectReference, ids []string) ([]types.EntityPrivilege, types.BaseMethodFault) {
	for _, id := range ids {
		if !knownPrivilege(id) {
			return nil, invalidArgument("privId")
		}
	}
	var out []types.EntityPrivilege
	for _, e := range entities {
		if v.reg.Get(e) == nil {
			return nil, notFound(e)
		}
		p := types.EntityPrivilege{Entity: e}
		for _, id := range ids {
			p.PrivAvailability = append(p.PrivAvailability, types.PrivilegeAvailability{PrivId: id, IsGranted: v.has(name, e, id)})
		}
		out = append(out, p)
	}
	return out, nil
}

func (s *sessions) userByKey(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live := s.live[key]; live != nil {
		return live.user
	}
	return ""
}

// HasPrivilegeOnEntities tells what a session may do.
func (f *front) HasPrivilegeOnEntities(_ *simulator.Context, req *types.HasPrivilegeOnEntities) soap.HasFault {
	name := f.vc.sessions.userByKey(req.SessionId)
	if name == "" {
		return refuse("", say(&types.NotAuthenticated{NoPermission: types.NoPermission{Object: &req.This, PrivilegeId: "System.View"}}, "",
			"there is no such session"))
	}
	list, fault := f.vc.privileges(name, req.Entity, req.PrivId)
	if fault != nil {
		return refuse("", fault)
	}
	return &methods.HasPrivilegeOnEntitiesBody{Res: &types.HasPrivilegeOnEntitiesResponse{Returnval: list}}
}

// HasPrivilegeOnEntity is the older form for one entity.
func (f *front) HasPrivilegeOnEntity(_ *simulator.Context, req *types.HasPrivilegeOnEntity) soap.HasFault {
	list, fault := f.vc.privileges(f.vc.sessions.userByKey(req.SessionId), []types.ManagedObjectReference{req.Entity}, req.PrivId)
	if fault != nil {
		return refuse("", fault)
	}
	var granted []bool
	for _, p := range list[0].PrivAvailability {
		granted = append(granted, p.IsGranted)
	}
	return &methods.HasPrivilegeOnEntityBody{Res: &types.HasPrivilegeOnEntityResponse{Returnval: granted}}
}

// HasUserPrivilegeOnEntities tells what a user may do.
func (f *front) HasUserPrivilegeOnEntities(_ *simulator.Context, req *types.HasUserPrivilegeOnEntities) soap.HasFault {
	list, fault := f.vc.privileges(req.UserName, req.Entities, req.PrivId)
	if fault != nil {
		return refuse("", fault)
	}
	return &methods.HasUserPrivilegeOnEntitiesBody{Res: &types.HasUserPrivilegeOnEntitiesResponse{Returnval: list}}
}

// FetchUserPrivilegeOnEntities lists what a user may do.
func (f *front) FetchUserPrivilegeOnEntities(_ *simulator.Context, req *types.FetchUserPrivilegeOnEntities) soap.HasFault {
	var out []types.UserPrivilegeResult
	for _, e := range req.Entities {
		if f.vc.reg.Get(e) == nil {
			return refuse("", notFound(e))
		}
		r := types.UserPrivilegeResult{Entity: e}
		for _, id := range privilegeList() {
			if f.vc.has(req.UserName, e, id) {
				r.Privileges = append(r.Privileges, id)
			}
		}
		out = append(out, r)
	}
	return &methods.FetchUserPrivilegeOnEntitiesBody{Res: &types.FetchUserPrivilegeOnEntitiesResponse{Returnval: out}}
}
