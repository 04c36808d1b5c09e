package vsim

import (
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	vsession "github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Each call that replication needs, refused to who lacks its privilege, with the privilege and the object named.
func TestMissingPrivilegesAreNamed(t *testing.T) {
	b := start(t)
	s := b.snap("web")
	r := b.as("reader@vsphere.local")
	vm := r.vm("web")
	key := object.NewVirtualMachine(r.c.Client, vm.Reference())
	calls := []struct {
		privilege string
		object    string
		call      func() error
	}{
		{"VirtualMachine.State.CreateSnapshot", "VirtualMachine", func() error { _, err := key.CreateSnapshot(r.ctx, "x", "", false, false); return err }},
		{"VirtualMachine.State.RemoveSnapshot", "VirtualMachine", func() error { _, err := r.remove(s); return err }},
		{"VirtualMachine.State.RemoveSnapshot", "VirtualMachine", func() error { return r.consolidate("web") }},
		{"VirtualMachine.State.RemoveSnapshot", "VirtualMachine", func() error { _, err := key.RemoveAllSnapshot(r.ctx, nil); return err }},
		{"VirtualMachine.State.RevertToSnapshot", "VirtualMachine", func() error {
			_, err := methods.RevertToSnapshot_Task(r.ctx, r.c.Client, &types.RevertToSnapshot_Task{This: s.ref})
			return err
		}},
		{"VirtualMachine.Provisioning.DiskRandomRead", "VirtualMachine", func() error { _, err := r.query("web", &s.ref, 2000, 0, "*"); return err }},
		{"VirtualMachine.Config.ChangeTracking", "VirtualMachine", func() error {
			_, err := key.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(false)})
			return err
		}},
		{"VirtualMachine.Config.Rename", "VirtualMachine", func() error {
			_, err := key.Reconfigure(r.ctx, types.VirtualMachineConfigSpec{Name: "x"})
			return err
		}},
		{"VirtualMachine.Config.AddNewDisk", "VirtualMachine", func() error { return addDisk(r, "web") }},
		{"VirtualMachine.Interact.PowerOff", "VirtualMachine", func() error { _, err := key.PowerOff(r.ctx); return err }},
		{"VirtualMachine.Interact.PowerOff", "VirtualMachine", func() error { return key.ShutdownGuest(r.ctx) }},
		{"VirtualMachine.Interact.PowerOn", "VirtualMachine", func() error { _, err := key.PowerOn(r.ctx); return err }},
		{"Resource.HotMigrate", "VirtualMachine", func() error {
			_, err := key.Relocate(r.ctx, types.VirtualMachineRelocateSpec{Host: &b.vc.hosts["esx-2"].ref}, "")
			return err
		}},
		{"VirtualMachine.Inventory.Delete", "VirtualMachine", func() error { _, err := key.Destroy(r.ctx); return err }},
		{"Host.Config.Maintenance", "HostSystem", func() error {
			_, err := object.NewHostSystem(r.c.Client, b.vc.hosts["esx-1"].ref).EnterMaintenanceMode(r.ctx, 0, false, nil)
			return err
		}},
		{"Sessions.TerminateSession", "Folder", func() error { return vsession.NewManager(r.c.Client).TerminateSession(r.ctx, []string{"x"}) }},
		{"Authorization.ModifyPermissions", "Folder", func() error {
			return object.NewAuthorizationManager(r.c.Client).SetEntityPermissions(r.ctx, vm.Reference(), nil)
		}},
		// What is in no table needs all privileges.
		{"Global.Settings", "Folder", func() error {
			_, err := object.NewRootFolder(r.c.Client).CreateDatacenter(r.ctx, "DC9")
			return err
		}},
	}
	for _, c := range calls {
		f := refused[types.NoPermission](r, c.call())
		if f.PrivilegeId != c.privilege || f.Object == nil || f.Object.Type != c.object {
			t.Errorf("got %s on %v, want %s on a %s", f.PrivilegeId, f.Object, c.privilege, c.object)
		}
	}
	// The same calls, by who holds the privileges.
	w := b.as("worker@vsphere.local")
	_, err := w.query("web", &s.ref, 2000, 0, "*")
	b.must(err)
	_, err = w.remove(s)
	b.must(err)
	w.snap("web")
	refused[types.NoPermission](b, func() error { _, err := w.vm("web").PowerOn(w.ctx); return err }())
}

func addDisk(b *bed, vm string) error {
	unit := int32(-1)
	d := &types.VirtualDisk{CapacityInBytes: 8 << 20, VirtualDevice: types.VirtualDevice{
		Key: -1, ControllerKey: keySCSI, UnitNumber: &unit, Backing: &types.VirtualDiskFlatVer2BackingInfo{DiskMode: "persistent"},
	}}
	_, err := b.wait(b.vm(vm).Reconfigure(b.ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd,
			FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate, Device: d},
	}}))
	return err
}

func TestHasPrivilegeAnswersTruly(t *testing.T) {
	b := start(t)
	w := b.as("worker@vsphere.local")
	me, err := vsession.NewManager(w.c.Client).UserSession(b.ctx)
	b.must(err)
	ids := []string{"VirtualMachine.State.CreateSnapshot", "VirtualMachine.Interact.PowerOn", "System.View"}
	want := []bool{true, false, true}
	am := *w.c.ServiceContent.AuthorizationManager
	ask := func(refs []types.ManagedObjectReference, ids []string) ([]types.EntityPrivilege, error) {
		res, err := methods.HasPrivilegeOnEntities(b.ctx, w.c.Client, &types.HasPrivilegeOnEntities{This: am, Entity: refs, SessionId: me.Key, PrivId: ids})
		if err != nil {
			return nil, err
		}
		return res.Returnval, nil
	}
	refs := []types.ManagedObjectReference{b.vm("web").Reference()}
	list, err := ask(refs, ids)
	b.must(err)
	res, err := methods.HasUserPrivilegeOnEntities(b.ctx, w.c.Client, &types.HasUserPrivilegeOnEntities{
		This: am, Entities: refs, UserName: `VSPHERE.LOCAL\worker`, PrivId: ids,
	})
	b.must(err)
	for i := range ids {
		equal(b, list[0].PrivAvailability[i].IsGranted, want[i])
		equal(b, res.Returnval[0].PrivAvailability[i].IsGranted, want[i])
	}
	_, err = ask(refs, []string{"No.Such.Privilege"})
	equal(b, refused[types.InvalidArgument](b, err).InvalidProperty, "privId")
	_, err = ask([]types.ManagedObjectReference{{Type: "VirtualMachine", Value: "vm-999"}}, ids)
	refused[types.ManagedObjectNotFound](b, err)
}

func TestWhatAUserMayNotSeeIsNotThere(t *testing.T) {
	b := start(t)
	p := b.as("prod@vsphere.local")
	v, err := view.NewManager(p.c.Client).CreateContainerView(b.ctx, b.vc.root, []string{"VirtualMachine"}, true)
	if err == nil {
		var vms []mo.VirtualMachine
		b.must(v.Retrieve(b.ctx, []string{"VirtualMachine"}, []string{"name"}, &vms))
		if len(vms) != 1 || vms[0].Name != "web" {
			t.Fatalf("sees %d machines", len(vms))
		}
	} else {
		refused[types.NoPermission](b, err)
	}
	var vm mo.VirtualMachine
	pc := property.DefaultCollector(p.c.Client)
	refused[types.NoPermission](b, pc.RetrieveOne(b.ctx, b.vm("plain").Reference(), []string{"name"}, &vm))
	b.must(pc.RetrieveOne(b.ctx, b.vm("web").Reference(), []string{"name"}, &vm))
	p.snap("web")
	_, err = p.vm("plain").CreateSnapshot(b.ctx, "x", "", false, false)
	refused[types.NoPermission](b, err)
	// An account without any permission does not log in.
	_, err = b.dial("nobody@vsphere.local", "sandbox")
	refused[types.NoPermission](b, err)
}
