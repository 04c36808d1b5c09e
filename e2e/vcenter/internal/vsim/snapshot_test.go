package vsim

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

func TestSnapshotFreezesBytesAndRemovalMerges(t *testing.T) {
	b := start(t)
	before := b.write("web", 2000, 64<<10, 4096)
	s := b.snap("web")
	equal(b, flat(s.disks[0]).FileName, "[ds-1] web/web.vmdk")
	now := disksOf(b.props("web").Config.Hardware.Device)
	equal(b, flat(now[0]).FileName, "[ds-1] web/web-000001.vmdk")
	equal(b, flat(now[0]).Parent.FileName, "[ds-1] web/web.vmdk")
	after := b.write("web", 2000, 64<<10, 8192)
	frozen, err := b.ctl.SnapshotDisk(s.ref.Value, 2000)
	b.must(err)
	got := readAll(b, frozen)[64<<10:]
	if !bytes.Equal(got[:4096], before) {
		t.Fatal("the snapshot shows what was written after it")
	}
	_, err = b.remove(s)
	b.must(err)
	current, err := b.ctl.CurrentDisk("web", 2000)
	b.must(err)
	if !bytes.Equal(readAll(b, current)[64<<10:][:8192], after) {
		t.Fatal("the merge lost bytes")
	}
	p := b.props("web")
	if p.Snapshot != nil || p.Runtime.ConsolidationNeeded || flat(disksOf(p.Config.Hardware.Device)[0]).FileName != "[ds-1] web/web.vmdk" {
		t.Fatalf("after removal: %v %v", p.Snapshot, p.Runtime.ConsolidationNeeded)
	}
	if _, err := frozen.ReadAt(make([]byte, 1), 0); err == nil {
		t.Fatal("a removed snapshot can still be read")
	}
	_, err = b.remove(s)
	refused[types.ManagedObjectNotFound](b, err)
	info := b.ok(b.vm("web").CreateSnapshot(b.ctx, "again", "", false, false))
	equal(b, info.Name, "CreateSnapshot_Task")
	equal(b, info.DescriptionId, "VirtualMachine.createSnapshot")
}

func TestSnapshotTreeAndItsDepth(t *testing.T) {
	b := start(t)
	var snaps []snap
	for range 4 {
		snaps = append(snaps, b.snap("web"))
	}
	_, err := b.wait(b.vm("web").CreateSnapshot(b.ctx, "fifth", "", false, false))
	refused[types.TooManySnapshotLevels](b, err)
	tree := b.props("web").Snapshot
	equal(b, *tree.CurrentSnapshot, snaps[3].ref)
	equal(b, tree.RootSnapshotList[0].ChildSnapshotList[0].Snapshot, snaps[1].ref)
	// The one in the middle goes: its child takes its place, the chain is one shorter, and names of files change.
	_, err = b.remove(snaps[1])
	b.must(err)
	tree = b.props("web").Snapshot
	equal(b, tree.RootSnapshotList[0].ChildSnapshotList[0].Snapshot, snaps[2].ref)
	depth := 0
	for at := flat(disksOf(b.props("web").Config.Hardware.Device)[0]); at != nil; at = at.Parent {
		depth++
	}
	equal(b, depth, 4)
	for _, s := range []snap{snaps[0], snaps[2], snaps[3]} {
		name := flat(b.read(s.ref).disks[0]).FileName
		if _, err := os.Stat(b.vc.stores["ds-1"].local("", strings.TrimPrefix(name, "[ds-1] "))); err != nil {
			t.Errorf("snapshot %s names a file that is not there: %v", s.ref.Value, err)
		}
	}
	b.ok(b.vm("web").RemoveAllSnapshot(b.ctx, nil))
	if b.props("web").Snapshot != nil {
		t.Fatal("snapshots are left")
	}
}

func TestRemoveWithChildren(t *testing.T) {
	b := start(t)
	first, _ := b.snap("web"), b.snap("web")
	res, err := methods.RemoveSnapshot_Task(b.ctx, b.c.Client, &types.RemoveSnapshot_Task{This: first.ref, RemoveChildren: true})
	b.must(err)
	b.ok(object.NewTask(b.c.Client, res.Returnval), nil)
	if b.props("web").Snapshot != nil {
		t.Fatal("the child is left")
	}
}

// What a revert would lead to: a snapshot's state says nothing of what its machine was.
func TestSnapshotWithoutMemoryIsPoweredOffWhateverItsMachineWas(t *testing.T) {
	b := start(t)
	for _, vm := range []string{"web", "cold"} {
		b.ok(b.vm(vm).CreateSnapshot(b.ctx, "s", "", false, false))
		equal(b, b.props(vm).Snapshot.RootSnapshotList[0].State, off)
	}
	equal(b, b.props("web").Runtime.PowerState, on)
	equal(b, b.props("cold").Runtime.PowerState, off)
	b.ok(b.vm("web").CreateSnapshot(b.ctx, "s", "", true, false))
	equal(b, b.props("web").Snapshot.RootSnapshotList[0].ChildSnapshotList[0].State, on)
	b.ok(b.vm("web").Suspend(b.ctx))
	b.ok(b.vm("web").CreateSnapshot(b.ctx, "s", "", false, false))
	equal(b, b.props("web").Snapshot.RootSnapshotList[0].ChildSnapshotList[0].ChildSnapshotList[0].State, off)
}

func TestRevertBringsBytesBackAndResetsTracking(t *testing.T) {
	b := start(t)
	before := b.write("web", 2000, 0, 4096)
	s := b.snap("web")
	b.write("web", 2000, 0, 8192)
	b.write("web", 2000, 8<<20, 4096)
	b.ok(object.NewTask(b.c.Client, must(methods.RevertToSnapshot_Task(b.ctx, b.c.Client, &types.RevertToSnapshot_Task{This: s.ref})).Returnval), nil)
	current, err := b.ctl.CurrentDisk("web", 2000)
	b.must(err)
	if !bytes.Equal(readAll(b, current)[:4096], before) {
		t.Fatal("not reverted")
	}
	p := b.props("web")
	equal(b, p.Runtime.PowerState, types.VirtualMachinePowerStatePoweredOff) // the snapshot has no memory
	if p.Runtime.BootTime != nil {
		t.Fatal("it is off, and was booted")
	}
	b.must(b.ctl.SetPower("web", control.PowerOn))
	next := b.snap("web")
	_, err = b.query("web", &next.ref, 2000, 0, flat(s.disks[0]).ChangeId)
	f := refused[types.FileFault](b, err)
	equal(b, f.FaultMessage[0].Key, keyNoChanges)
	// The host that hides it goes on with the same generation.
	b.write("web", 2000, 4<<20, 4096)
	b.must(b.ctl.Revert(next.ref.Value, true))
	b.must(b.ctl.SetPower("web", control.PowerOn))
	third := b.snap("web")
	if _, err := b.query("web", &third.ref, 2000, 0, flat(next.disks[0]).ChangeId); err != nil {
		t.Fatalf("the hidden revert shows: %v", err)
	}
	_, err = b.wait(b.vm("plain").RevertToSnapshot(b.ctx, "nothing", true))
	if err == nil {
		t.Fatal("reverted to no snapshot")
	}
	_, err = methods.RevertToCurrentSnapshot_Task(b.ctx, b.c.Client, &types.RevertToCurrentSnapshot_Task{This: b.vm("plain").Reference()})
	refused[types.NotFound](b, err)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestWhatCannotBeSnapshotted(t *testing.T) {
	b := start(t)
	take := func(vm, name string, memory, quiesce bool) error {
		_, err := b.wait(b.vm(vm).CreateSnapshot(b.ctx, name, "", memory, quiesce))
		return err
	}
	refused[types.NotSupported](b, take("ft", "x", false, false))
	refused[types.InvalidState](b, take("tmpl", "x", false, false))
	refused[types.SnapshotIncompatibleDeviceInVm](b, take("shared", "x", false, false))
	refused[types.SnapshotIncompatibleDeviceInVm](b, take("multi", "x", false, false))
	refused[types.MemorySnapshotOnIndependentDisk](b, take("odd", "x", true, false))
	refused[types.InvalidName](b, take("web", "", false, false))
	refused[types.InvalidName](b, take("web", "50% of it", false, false))
	refused[types.InvalidName](b, take("web", strings.Repeat("x", 81), false, false))
	b.must(take("web", "50%25 of it", false, false))
	_, err := b.wait(b.vm("web").CreateSnapshotEx(b.ctx, "x", "", false, &types.VirtualMachineGuestQuiesceSpec{Timeout: 3}))
	equal(b, refused[types.InvalidArgument](b, err).InvalidProperty, "quiesceSpec.timeout")
	// Independent disks and raw devices in physical mode stay out of a snapshot without memory.
	s := b.snap("odd")
	var files []string
	for _, d := range disksOf(b.props("odd").Config.Hardware.Device) {
		files = append(files, d.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName)
	}
	equal(b, strings.Join(files, " "), "[ds-1] odd/odd-000001.vmdk [ds-1] odd/odd_1.vmdk [ds-1] odd/odd_2.vmdk [ds-1] odd/odd_3-000001.vmdk")
	for _, key := range []int32{2001, 2002} {
		_, err := b.query("odd", &s.ref, key, 0, "*")
		equal(b, refused[types.FileFault](b, err).FaultMessage[0].Key, keyNoTrack)
	}
	_, err = b.query("odd", &s.ref, 2003, 0, "*")
	b.must(err)
}

func TestQuiesceFaults(t *testing.T) {
	b := start(t, func(i *Inventory) { i.VMs[0].QuiesceFails = "application" })
	quiesced := func(vm string) error {
		_, err := b.wait(b.vm(vm).CreateSnapshot(b.ctx, "q", "", false, true))
		return err
	}
	refused[types.ApplicationQuiesceFault](b, quiesced("web"))
	b.vc.find("web").decl.QuiesceFails = "filesystem"
	refused[types.FilesystemQuiesceFault](b, quiesced("web"))
	b.snap("web") // without quiescing it goes
	// Without Tools the wish is passed over, and the snapshot says so.
	b.must(quiesced("plain"))
	equal(b, b.props("plain").Snapshot.RootSnapshotList[0].Quiesced, false)
	b.vc.find("web").decl.QuiesceFails = ""
	b.must(quiesced("web"))
}

// An open reader keeps the removal from merging: the task succeeds, the disks need consolidation (KB 2003638).
func TestOpenDiskLeavesConsolidationNeeded(t *testing.T) {
	b := start(t)
	s := b.snap("web")
	b.write("web", 2000, 0, 4096)
	c, err := (&backend{b.vc}).Connect(context.Background(), vddk.Credentials{
		User: Administrator, Password: "sandbox", VM: b.vm("web").Reference().Value, Snapshot: s.ref.Value,
	})
	b.must(err)
	open, err := c.Open(flat(s.disks[0]).FileName, vddk.OpenReadOnly)
	b.must(err)
	want := make([]byte, 4096)
	if _, err := open.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	_, err = b.remove(s)
	b.must(err)
	p := b.props("web")
	if !p.Runtime.ConsolidationNeeded || p.Snapshot != nil {
		t.Fatalf("needs consolidation %v, snapshots %v", p.Runtime.ConsolidationNeeded, p.Snapshot)
	}
	now := disksOf(p.Config.Hardware.Device)
	if flat(now[0]).Parent == nil || flat(now[1]).Parent != nil {
		t.Fatal("the open disk's delta is to be left, the other disk's is to be merged")
	}
	refused[types.FileLocked](b, b.consolidate("web"))
	got := make([]byte, 4096)
	if _, err := open.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the open reader sees other bytes: %v", err)
	}
	b.must(open.Close())
	b.must(b.consolidate("web"))
	p = b.props("web")
	if p.Runtime.ConsolidationNeeded || flat(disksOf(p.Config.Hardware.Device)[0]).Parent != nil {
		t.Fatal("not consolidated")
	}
}

func TestConsolidationLeftBehindOnPurpose(t *testing.T) {
	b := start(t)
	s := b.snap("web")
	b.must(b.ctl.LeaveConsolidation("web", 2))
	_, err := b.remove(s)
	b.must(err)
	equal(b, b.props("web").Runtime.ConsolidationNeeded, true)
	for range 2 {
		refused[types.FileLocked](b, b.consolidate("web"))
	}
	b.must(b.consolidate("web"))
	equal(b, b.props("web").Runtime.ConsolidationNeeded, false)
	// Without a snapshot the state itself can be had.
	b.must(b.ctl.LeaveConsolidation("plain", 0))
	equal(b, b.props("plain").Runtime.ConsolidationNeeded, true)
	b.must(b.consolidate("plain"))
	equal(b, b.props("plain").Runtime.ConsolidationNeeded, false)
}

func TestFullDatastore(t *testing.T) {
	b := start(t)
	free := func() int64 {
		var ds mo.Datastore
		b.must(property.DefaultCollector(b.c.Client).RetrieveOne(b.ctx, b.vc.stores["ds-1"].ref, []string{"summary"}, &ds))
		return ds.Summary.FreeSpace
	}
	s := b.snap("web")
	before := free()
	b.write("web", 2001, 0, 1<<20)
	_, err := methods.RefreshDatastore(b.ctx, b.c.Client, &types.RefreshDatastore{This: b.vc.stores["ds-1"].ref})
	b.must(err)
	if got := before - free(); got != 1<<20 {
		t.Fatalf("a delta of 1 MiB took %d", got)
	}
	_, err = b.remove(s)
	b.must(err)
	room := int64(100 << 10)
	b.must(b.ctl.SetDatastore("ds-1", nil, &room))
	_, err = b.wait(b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false))
	equal(b, refused[types.NoDiskSpace](b, err).Datastore, "ds-1")
	// A guest that writes more than there is stops with a question, and all but its answer waits.
	err = b.ctl.GuestWrite("web", 2001, make([]byte, 2<<20), 2<<20)
	if err == nil {
		t.Fatal("written beyond the end of the datastore")
	}
	q := b.props("web").Runtime.Question
	if q == nil {
		t.Fatal("no question")
	}
	_, err = b.wait(b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false))
	refused[types.QuestionPending](b, err)
	refused[types.InvalidArgument](b, b.vm("web").Answer(b.ctx, "other", "0"))
	room = 100 << 20
	b.must(b.ctl.SetDatastore("ds-1", nil, &room))
	b.must(b.vm("web").Answer(b.ctx, q.Id, "0"))
	b.must(b.ctl.GuestWrite("web", 2001, make([]byte, 2<<20), 2<<20))
	b.snap("web")
}

// Deltas and oracle over a random run: what a snapshot shows never changes, whatever goes on around it.
func TestOracleStaysTrueThroughAHistory(t *testing.T) {
	b := start(t)
	type kept struct {
		s   snap
		sum [32]byte
	}
	var all []kept
	check := func() {
		for _, k := range all {
			r, err := b.ctl.SnapshotDisk(k.s.ref.Value, 2000)
			b.must(err)
			sum, err := r.SHA256()
			b.must(err)
			if sum != k.sum {
				t.Fatalf("%s changed", k.s.ref.Value)
			}
		}
	}
	for i := range 12 {
		b.write("web", 2000, int64(i%5)*(1<<20), 64<<10)
		if len(all) == 3 {
			k := all[i%3]
			_, err := b.remove(k.s)
			b.must(err)
			all = append(all[:i%3], all[i%3+1:]...)
			check()
		}
		s := b.snap("web")
		r, err := b.ctl.SnapshotDisk(s.ref.Value, 2000)
		b.must(err)
		// Read by hand, not by the digest that the engine keeps.
		sum := disk32(readAll(b, r))
		all = append(all, kept{s, sum})
		check()
	}
}
