package vsim

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
	"hawser.dev/e2e/vcenter/internal/disk"
)

func disk32(p []byte) [32]byte { return sha256.Sum256(p) }

// areas reads all pages as a careful client does.
func areas(b *bed, vm string, s snap, key int32, id string, capacity int64) (out []types.DiskChangeExtent, pages int) {
	b.Helper()
	for at := int64(0); at < capacity; pages++ {
		info, err := b.query(vm, &s.ref, key, at, id)
		b.must(err)
		equal(b, info.StartOffset, at)
		if info.Length <= 0 || len(info.ChangedArea) > disk.MaxAreas {
			b.Fatalf("page of length %d with %d areas", info.Length, len(info.ChangedArea))
		}
		out = append(out, info.ChangedArea...)
		at += info.Length
	}
	return out, pages
}

func TestChangeIDsOnlyWhenTrackedAndStunned(t *testing.T) {
	b := start(t)
	equal(b, flat(b.snap("plain").disks[0]).ChangeId, "")
	b.ok(b.vm("plain").RemoveAllSnapshot(b.ctx, nil))
	b.ok(b.vm("plain").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
	p := b.props("plain")
	equal(b, *p.Config.ChangeTrackingEnabled, true)
	equal(b, flat(disksOf(p.Config.Hardware.Device)[0]).ChangeId, "") // asked for, not active
	first := b.snap("plain")                                          // its stun makes it active
	equal(b, flat(first.disks[0]).ChangeId, "")
	_, err := b.query("plain", &first.ref, 2000, 0, "*")
	equal(b, refused[types.FileFault](b, err).FaultMessage[0].Key, keyNoTrack)
	_, err = b.remove(first)
	b.must(err)
	second := b.snap("plain")
	if id := flat(second.disks[0]).ChangeId; !strings.Contains(id, "/") || len(strings.Split(id, " ")) != 15 {
		t.Fatalf("change ID %q", id)
	}
	// With a snapshot in the way it cannot begin (KB 1031873).
	b.snap("nas")
	b.ok(b.vm("nas").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(false)}))
	b.snap("nas")
	b.ok(b.vm("nas").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
	b.snap("nas")
	equal(b, flat(b.snap("nas").disks[0]).ChangeId, "")
	// Hardware version 4 cannot be tracked at all.
	equal(b, b.props("ancient").Capability.ChangeTrackingSupported, false)
	_, err = b.wait(b.vm("ancient").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(true)}))
	refused[types.NotSupported](b, err)
}

func TestChangedAreasSinceAnOlderID(t *testing.T) {
	b := start(t)
	first := b.snap("web")
	b.write("web", 2000, 1<<20+100, 512)
	b.write("web", 2000, 5<<20, 128<<10)
	second := b.snap("web")
	b.write("web", 2000, 9<<20, 4096)
	got, _ := areas(b, "web", second, 2000, flat(first.disks[0]).ChangeId, 16<<20)
	want := []types.DiskChangeExtent{{Start: 1 << 20, Length: disk.Grain}, {Start: 5 << 20, Length: 128 << 10}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Fatalf("got %v", got)
	}
	none, pages := areas(b, "web", second, 2001, flat(first.disks[1]).ChangeId, 8<<20)
	if len(none) != 0 || pages != 1 {
		t.Fatalf("an untouched disk: %v in %d pages", none, pages)
	}
	allocated, _ := areas(b, "web", second, 2000, "*", 16<<20)
	equal(b, allocated[0], types.DiskChangeExtent{Start: 0, Length: 1<<20 + disk.Grain})
}

func TestPagesHoldAtMost2000Areas(t *testing.T) {
	inv, err := ParseInventory([]byte(testInventory))
	if err != nil {
		t.Fatal(err)
	}
	inv.VMs[0].Disks[0].Size = 700 << 20
	b := startInventory(t, inv)
	first := b.snap("web")
	for i := range int64(5200) {
		b.must(b.ctl.GuestWrite("web", 2000, []byte{1}, i*2*disk.Grain))
	}
	second := b.snap("web")
	got, pages := areas(b, "web", second, 2000, flat(first.disks[0]).ChangeId, 700<<20)
	equal(b, len(got), 5200)
	equal(b, pages, 3)
	for i, a := range got {
		equal(b, a, types.DiskChangeExtent{Start: int64(i) * 2 * disk.Grain, Length: disk.Grain})
	}
}

func TestEachFaultOfQueryChangedDiskAreas(t *testing.T) {
	b := start(t)
	s := b.snap("web")
	other := b.snap("odd")
	id := flat(s.disks[0]).ChangeId
	gone := types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: "snapshot-999"}
	query := func(ref *types.ManagedObjectReference, key int32, at int64, id string) error {
		_, err := b.query("web", ref, key, at, id)
		return err
	}
	refused[types.NotFound](b, query(&gone, 2000, 0, id))
	refused[types.NotFound](b, query(&other.ref, 2000, 0, id)) // of another machine
	for property, err := range map[string]error{
		"deviceKey":   query(&s.ref, 1000, 0, id),
		"startOffset": query(&s.ref, 2000, 16<<20, id), // at the end is beyond it
		"changeId":    query(&s.ref, 2000, 0, "nonsense"),
	} {
		equal(b, refused[types.InvalidArgument](b, err).InvalidProperty, property)
	}
	equal(b, refused[types.InvalidArgument](b, query(&s.ref, 4000, 0, id)).InvalidProperty, "deviceKey")
	equal(b, refused[types.InvalidArgument](b, query(&s.ref, 2000, -1, id)).InvalidProperty, "startOffset")
	b.must(query(&s.ref, 2000, 16<<20-1, id))
	// Another generation, another disk's ID, and a newer one than the snapshot.
	foreign := flat(s.disks[1]).ChangeId
	f := refused[types.FileFault](b, query(&s.ref, 2000, 0, foreign))
	equal(b, f.FaultMessage[0].Key, keyNoChanges)
	if f.File != "[ds-1] web/web-000001.vmdk" {
		t.Errorf("file %q", f.File)
	}
	equal(b, refused[types.InvalidArgument](b, query(&s.ref, 2000, 0, strings.Split(id, "/")[0]+"/99")).InvalidProperty, "changeId")
	// Without a snapshot only while the machine is off.
	refused[types.InvalidPowerState](b, query(nil, 2000, 0, id))
	c := b.props("cold")
	_, err := b.query("cold", nil, 2000, 0, flat(disksOf(c.Config.Hardware.Device)[0]).ChangeId)
	b.must(err)
	// A reset: old IDs, and old snapshots, are worth nothing.
	b.must(b.ctl.ResetCBT("web", 2000))
	equal(b, refused[types.FileFault](b, query(&s.ref, 2000, 0, id)).FaultMessage[0].Key, keyNoEpoch)
	next := b.snap("web")
	equal(b, refused[types.FileFault](b, query(&next.ref, 2000, 0, id)).FaultMessage[0].Key, keyNoChanges)
	// Switched off and stunned.
	b.ok(b.vm("web").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{ChangeTrackingEnabled: types.NewBool(false)}))
	b.snap("web")
	untracked := b.snap("web")
	equal(b, refused[types.FileFault](b, query(&untracked.ref, 2000, 0, id)).FaultMessage[0].Key, keyNoTrack)
}

func TestAllocatedAreasAreAHintOffVMFS(t *testing.T) {
	b := start(t)
	s := b.snap("nas")
	info, err := b.query("nas", &s.ref, 2000, 0, "*")
	b.must(err)
	if len(info.ChangedArea) != 1 || info.ChangedArea[0].Length != 8<<20 {
		t.Fatalf("NFS answers %v", info.ChangedArea)
	}
	b = start(t, func(i *Inventory) { i.Datacenters[0].Datastores[2].Allocated = "fault" })
	s = b.snap("nas")
	_, err = b.query("nas", &s.ref, 2000, 0, "*")
	refused[types.FileFault](b, err)
}

func TestForgottenEpochs(t *testing.T) {
	b := start(t, func(i *Inventory) { i.Settings.KeepEpochs = 2 })
	first := b.snap("web")
	_, err := b.remove(first)
	b.must(err)
	for range 3 {
		s := b.snap("web")
		_, err := b.remove(s)
		b.must(err)
	}
	s := b.snap("web")
	_, err = b.query("web", &s.ref, 2000, 0, flat(first.disks[0]).ChangeId)
	equal(b, refused[types.FileFault](b, err).FaultMessage[0].Key, keyNoEpoch)
}

func TestShortPages(t *testing.T) {
	b := start(t, func(i *Inventory) { i.Settings.PageSpan = 1 << 20 })
	first, _ := b.snap("web"), b.write("web", 2000, 15<<20, 512)
	second := b.snap("web")
	got, pages := areas(b, "web", second, 2000, flat(first.disks[0]).ChangeId, 16<<20)
	equal(b, pages, 16)
	equal(b, len(got), 1)
}

func TestDiskThatIsAddedRemovedReplacedGrown(t *testing.T) {
	b := start(t)
	b.must(addDisk(b, "web"))
	disks := disksOf(b.props("web").Config.Hardware.Device)
	equal(b, len(disks), 3)
	d := disks[2]
	equal(b, d.Key, int32(2002))
	equal(b, d.DeviceInfo.GetDescription().Label, "Hard disk 3")
	equal(b, flat(d).FileName, "[ds-1] web/web_2.vmdk")
	if !strings.HasSuffix(d.DiskObjectId, "-2002") || len(flat(d).Uuid) != 36 {
		t.Errorf("identity %q %q", d.DiskObjectId, flat(d).Uuid)
	}
	if flat(b.snap("web").disks[2]).ChangeId == "" {
		t.Error("a disk added to a tracked machine is not tracked")
	}
	edit := func(size int64) error {
		d := disksOf(b.props("web").Config.Hardware.Device)[2]
		d.CapacityInBytes, d.CapacityInKB = size, size/1024
		_, err := b.wait(b.vm("web").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: d},
		}}))
		return err
	}
	refused[types.InvalidDeviceOperation](b, edit(16<<20)) // with a snapshot
	b.ok(b.vm("web").RemoveAllSnapshot(b.ctx, nil))
	refused[types.InvalidDeviceOperation](b, edit(4<<20)) // smaller
	b.must(edit(16 << 20))
	equal(b, disksOf(b.props("web").Config.Hardware.Device)[2].CapacityInBytes, int64(16<<20))
	old := flat(disksOf(b.props("web").Config.Hardware.Device)[2]).Uuid
	replaced, err := b.ctl.ReplaceDisk("web", 2002, 0)
	b.must(err)
	if replaced.UUID == old || replaced.Key != 2002 {
		t.Errorf("replaced by %+v, was %s", replaced, old)
	}
	_, err = b.wait(b.vm("web").Reconfigure(b.ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, FileOperation: "destroy", Device: &types.VirtualDisk{
			VirtualDevice: types.VirtualDevice{Key: 2002}}},
	}}))
	b.must(err)
	equal(b, len(disksOf(b.props("web").Config.Hardware.Device)), 2)
	b.must(b.ctl.RemoveDisk("web", 2001))
	if err := b.ctl.RemoveDisk("web", 2001); err == nil {
		t.Error("removed twice")
	}
	// A disk that snapshots have survives its removal there.
	s := b.snap("web")
	b.must(b.ctl.RemoveDisk("web", 2000))
	r, err := b.ctl.SnapshotDisk(s.ref.Value, 2000)
	b.must(err)
	readAll(b, r)
	var c control.VM
	c, err = b.ctl.VM("web")
	b.must(err)
	equal(b, len(c.Disks), 0)
}
