package vsim

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
)

func TestPowerStates(t *testing.T) {
	b := start(t)
	_, err := b.wait(b.vm("web").PowerOn(b.ctx))
	f := refused[types.InvalidPowerState](b, err)
	equal(b, f.ExistingState, on)
	b.ok(b.vm("web").PowerOff(b.ctx))
	_, err = b.wait(b.vm("web").PowerOff(b.ctx))
	refused[types.InvalidPowerState](b, err)
	_, err = b.wait(b.vm("web").Suspend(b.ctx))
	refused[types.InvalidPowerState](b, err)
	_, err = b.wait(b.vm("web").Reset(b.ctx))
	refused[types.InvalidPowerState](b, err)
	if b.ctl.GuestWrite("web", 2000, []byte{1}, 0) == nil {
		t.Fatal("the guest of a machine that is off has written")
	}
	_, err = b.wait(b.vm("tmpl").PowerOn(b.ctx))
	refused[types.InvalidState](b, err)
	b.ok(b.vm("web").PowerOn(b.ctx))
	if b.props("web").Runtime.BootTime == nil {
		t.Fatal("no boot time")
	}
	// A powered-off machine's disks have moved on by a stun: tracking asked for while off is active.
	b.ok(b.vm("cold").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(false)}))
	equal(b, flat(b.snap("cold").disks[0]).ChangeId, "")
	b.ok(b.vm("cold").RemoveAllSnapshot(b.ctx, nil))
	b.ok(b.vm("cold").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
	if flat(b.snap("cold").disks[0]).ChangeId == "" {
		t.Fatal("not tracked")
	}
}

func TestBootTimeIsUnsetWhileAMachineIsOff(t *testing.T) {
	b := start(t)
	booted := func(vm string) *time.Time { return b.props(vm).Runtime.BootTime }
	if booted("web") == nil || booted("cold") != nil {
		t.Fatalf("booted: %v, %v", booted("web"), booted("cold"))
	}
	first := *booted("web")
	b.ok(b.vm("web").PowerOff(b.ctx))
	if booted("web") != nil {
		t.Fatal("it is off, and was booted")
	}
	b.ok(b.vm("web").PowerOn(b.ctx))
	if again := booted("web"); again == nil || !again.After(first) {
		t.Fatalf("booted at %v, and then at %v", first, again)
	}
}

func TestGuestShutdownTakesTimeAndNeedsTools(t *testing.T) {
	b := start(t, func(i *Inventory) { i.Settings.GuestShutdown = Duration(300 * time.Millisecond) })
	refused[types.ToolsUnavailable](b, b.vm("plain").ShutdownGuest(b.ctx))
	refused[types.InvalidPowerState](b, b.vm("cold").ShutdownGuest(b.ctx))
	b.must(b.vm("web").ShutdownGuest(b.ctx))
	equal(b, b.props("web").Runtime.PowerState, on) // asked, not done
	time.Sleep(700 * time.Millisecond)
	equal(b, b.props("web").Runtime.PowerState, off)
	b.ok(b.vm("web").PowerOn(b.ctx))
	b.must(b.ctl.SetTools("web", control.ToolsNotRunning))
	refused[types.ToolsUnavailable](b, b.vm("web").ShutdownGuest(b.ctx))
	equal(b, b.props("web").Guest.ToolsRunningStatus, "guestToolsNotRunning")
	if b.ctl.SetTools("web", "broken") == nil {
		t.Fatal("accepted")
	}
	// A machine that was switched off and on again is not switched off by the shutdown asked for before.
	b.must(b.ctl.SetTools("web", control.ToolsRunning))
	b.must(b.vm("web").ShutdownGuest(b.ctx))
	b.ok(b.vm("web").PowerOff(b.ctx))
	b.ok(b.vm("web").PowerOn(b.ctx))
	time.Sleep(600 * time.Millisecond)
	equal(b, b.props("web").Runtime.PowerState, on)
}

func TestHosts(t *testing.T) {
	b := start(t)
	down, yes := control.NotResponding, true
	b.must(b.ctl.SetHost("esx-1", nil, &down))
	p := b.props("web")
	equal(b, p.Runtime.ConnectionState, types.VirtualMachineConnectionStateDisconnected)
	_, err := b.wait(b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false))
	refused[types.HostCommunication](b, err)
	gone := control.Disconnected
	b.must(b.ctl.SetHost("esx-1", nil, &gone))
	_, err = b.wait(b.vm("web").PowerOff(b.ctx))
	refused[types.HostNotConnected](b, err)
	up := control.Connected
	b.must(b.ctl.SetHost("esx-1", nil, &up))
	b.snap("web")

	b.must(b.ctl.SetHost("esx-2", &yes, nil))
	_, err = b.wait(b.vm("cold").PowerOn(b.ctx))
	refused[types.InvalidState](b, err)
	to := b.vc.hosts["esx-2"].ref
	_, err = b.wait(b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Host: &to}, ""))
	refused[types.InvalidState](b, err)
	h := object.NewHostSystem(b.c.Client, to)
	_, err = b.wait(h.EnterMaintenanceMode(b.ctx, 0, false, nil))
	refused[types.InvalidState](b, err)
	b.ok(h.ExitMaintenanceMode(b.ctx, 0))
	_, err = b.wait(object.NewHostSystem(b.c.Client, b.vc.hosts["esx-1"].ref).EnterMaintenanceMode(b.ctx, 0, false, nil))
	refused[types.Timedout](b, err)
	if b.ctl.SetHost("esx-9", &yes, nil) == nil {
		t.Fatal("there is no such host")
	}
}

func TestVMotionAndStorageVMotion(t *testing.T) {
	b := start(t)
	want := b.write("web", 2000, 3<<20, 64<<10)
	s := b.snap("web")
	b.write("web", 2000, 5<<20, 4096)
	id := flat(s.disks[0]).ChangeId
	to, ds := b.vc.hosts["esx-2"], b.vc.stores["ds-2"]
	b.ok(b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Host: &to.ref}, ""))
	p := b.props("web")
	equal(b, *p.Runtime.Host, to.ref)
	equal(b, flat(disksOf(p.Config.Hardware.Device)[0]).FileName, "[ds-1] web/web-000001.vmdk")
	b.ok(b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Datastore: &ds.ref}, ""))
	p = b.props("web")
	if len(p.Datastore) != 1 || p.Datastore[0] != ds.ref || p.Config.Files.VmPathName != "[ds-2] web/web.vmx" {
		t.Fatalf("datastores %v, %s", p.Datastore, p.Config.Files.VmPathName)
	}
	equal(b, flat(disksOf(p.Config.Hardware.Device)[0]).FileName, "[ds-2] web/web-000001.vmdk")
	for name, want := range map[string]bool{"ds-1": false, "ds-2": true} {
		var o mo.Datastore
		b.must(property.DefaultCollector(b.c.Client).RetrieveOne(b.ctx, b.vc.stores[name].ref, []string{"vm"}, &o))
		equal(b, slices.Contains(o.Vm, p.Self), want)
	}
	equal(b, flat(b.read(s.ref).disks[0]).FileName, "[ds-2] web/web.vmdk")
	r, err := b.ctl.SnapshotDisk(s.ref.Value, 2000)
	b.must(err)
	if !bytes.Equal(readAll(b, r)[3<<20:][:64<<10], want) {
		t.Fatal("the snapshot's bytes did not come along")
	}
	// Tracking goes on, over the move.
	next := b.snap("web")
	got, _ := areas(b, "web", next, 2000, id, 16<<20)
	equal(b, len(got), 1)
	equal(b, got[0].Start, int64(5<<20))

	room := int64(1 << 20)
	b.must(b.ctl.SetDatastore("ds-1", nil, &room))
	_, err = b.wait(b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Datastore: &b.vc.stores["ds-1"].ref}, ""))
	refused[types.NoDiskSpace](b, err)
	_, err = b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Folder: &b.vc.root}, "")
	refused[types.NotSupported](b, err)
	missing := types.ManagedObjectReference{Type: "HostSystem", Value: "host-999"}
	_, err = b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Host: &missing}, "")
	equal(b, refused[types.InvalidArgument](b, err).InvalidProperty, "spec.host")

	b = start(t, func(i *Inventory) { i.Settings.RelocateResetsTracking = true })
	s = b.snap("web")
	b.must(b.ctl.Relocate("web", "ds-2"))
	next = b.snap("web")
	_, err = b.query("web", &next.ref, 2000, 0, flat(s.disks[0]).ChangeId)
	equal(b, refused[types.FileFault](b, err).FaultMessage[0].Key, keyNoChanges)
}

func TestDisabledMethods(t *testing.T) {
	b := start(t)
	b.must(b.ctl.DisableMethods("web", []string{"RelocateVM_Task", "CreateSnapshot_Task"}))
	_, err := b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false)
	equal(b, refused[types.MethodDisabled](b, err).Source, "another product")
	_, err = b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Host: &b.vc.hosts["esx-2"].ref}, "")
	refused[types.MethodDisabled](b, err)
	equal(b, len(b.props("web").DisabledMethod), 2)
	b.must(b.ctl.DisableMethods("web", nil))
	b.snap("web")
}

func TestGoneMachines(t *testing.T) {
	b := start(t)
	refused[types.InvalidPowerState](b, b.vm("web").Unregister(b.ctx))
	_, err := b.wait(b.vm("web").Destroy(b.ctx))
	refused[types.InvalidPowerState](b, err)
	s := b.snap("web")
	b.must(b.ctl.SetPower("web", control.PowerOff))
	vm := b.vm("web")
	b.ok(vm.Destroy(b.ctx))
	_, err = vm.CreateSnapshot(b.ctx, "x", "", false, false)
	refused[types.ManagedObjectNotFound](b, err)
	_, err = b.remove(s)
	refused[types.ManagedObjectNotFound](b, err)
	cold := b.vm("cold")
	b.must(cold.Unregister(b.ctx))
	_, err = cold.PowerOn(b.ctx)
	refused[types.ManagedObjectNotFound](b, err)
	// Registered again it is the same machine under another reference.
	folder := object.NewFolder(b.c.Client, b.vc.find("nas").dc.VmFolder)
	pool := object.NewResourcePool(b.c.Client, b.vc.hosts["esx-2"].pool)
	_, err = b.wait(folder.RegisterVM(b.ctx, "[ds-2] nothing/nothing.vmx", "", false, pool, nil))
	refused[types.NotFound](b, err)
	_, err = b.wait(folder.RegisterVM(b.ctx, "[nfs-1] nas/nas.vmx", "", false, pool, nil))
	refused[types.AlreadyExists](b, err)
	b.ok(folder.RegisterVM(b.ctx, "[ds-2] cold/cold.vmx", "", false, pool, nil))
	if again := b.vm("cold"); again.Reference() == cold.Reference() {
		t.Error("the same reference")
	}
	b.ok(b.vm("cold").PowerOn(b.ctx))
	b.snap("cold")
	_, err = b.wait(b.vm("plain").Rename(b.ctx, "nas"))
	refused[types.DuplicateName](b, err)
	b.ok(b.vm("plain").Rename(b.ctx, "renamed"))
	equal(b, b.props("renamed").Config.Files.VmPathName, "[ds-1] plain/plain.vmx")
}

// What this simulator does not have is refused, not answered with something untrue.
func TestWhatIsNotSimulatedIsRefused(t *testing.T) {
	b := start(t)
	folders, err := object.NewDatacenter(b.c.Client, b.vc.find("web").dc.Self).Folders(b.ctx)
	b.must(err)
	pool := object.NewResourcePool(b.c.Client, b.vc.hosts["esx-1"].pool)
	_, err = folders.VmFolder.CreateVM(b.ctx, types.VirtualMachineConfigSpec{Name: "x"}, pool, nil)
	refused[types.NotSupported](b, err)
	_, err = b.vm("web").Clone(b.ctx, folders.VmFolder, "x", types.VirtualMachineCloneSpec{})
	refused[types.NotSupported](b, err)
	_, err = b.vm("web").Export(b.ctx)
	refused[types.NotSupported](b, err)
	_, err = b.vm("web").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{Firmware: "bios"})
	refused[types.NotSupported](b, err)
}
