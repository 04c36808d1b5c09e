package vsim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
)

func (b *bed) task(ref types.ManagedObjectReference) types.TaskInfo {
	b.Helper()
	var t mo.Task
	b.must(property.DefaultCollector(b.c.Client).RetrieveOne(b.ctx, ref, []string{"info"}, &t))
	return t.Info
}

func TestTasksTakeTimeShowProgressAndAreListed(t *testing.T) {
	b := start(t)
	b.vc.setTaskTime("CreateSnapshot_Task", 800*time.Millisecond)
	began := time.Now()
	task, err := b.vm("web").CreateSnapshot(b.ctx, "slow", "", false, false)
	b.must(err)
	var seen []int32
	for {
		info := b.task(task.Reference())
		if info.State == types.TaskInfoStateSuccess {
			break
		}
		equal(b, info.State, types.TaskInfoStateRunning)
		// The machine can be read meanwhile, and shows its task.
		if p := b.props("web"); !slices.Contains(p.RecentTask, task.Reference()) || p.Snapshot != nil {
			t.Fatalf("recent tasks %v, snapshot %v", p.RecentTask, p.Snapshot)
		}
		seen = append(seen, info.Progress)
		time.Sleep(100 * time.Millisecond)
	}
	if time.Since(began) < 800*time.Millisecond || len(seen) < 4 || seen[0] >= seen[len(seen)-1] {
		t.Fatalf("after %v, progress %v", time.Since(began), seen)
	}
	info := b.task(task.Reference())
	equal(b, info.EntityName, "web")
	equal(b, info.Reason.(*types.TaskReasonUser).UserName, Administrator)
}

func TestOneTaskAtATime(t *testing.T) {
	b := start(t)
	b.vc.setTaskTime("", 400*time.Millisecond)
	first, err := b.vm("web").CreateSnapshot(b.ctx, "first", "", false, false)
	b.must(err)
	_, err = b.vm("web").CreateSnapshot(b.ctx, "second", "", false, false)
	equal(b, refused[types.TaskInProgress](b, err).Task, first.Reference())
	_, err = b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{}, "")
	refused[types.TaskInProgress](b, err)
	if err := b.ctl.RemoveSnapshot("nothing"); err == nil {
		t.Fatal("removed nothing")
	}
	if err := b.ctl.Migrate("web", "esx-2"); err == nil {
		t.Fatal("the control port worked beside a task")
	}
	other, err := b.vm("plain").CreateSnapshot(b.ctx, "other machine", "", false, false)
	b.must(err)
	b.ok(first, nil)
	b.ok(other, nil)
	b.snap("web")

	b = start(t, func(i *Inventory) { i.Settings.BusyFault = "task" })
	b.vc.setTaskTime("", 300*time.Millisecond)
	first, err = b.vm("web").CreateSnapshot(b.ctx, "first", "", false, false)
	b.must(err)
	second, err := b.vm("web").CreateSnapshot(b.ctx, "second", "", false, false)
	b.must(err) // the call goes, its task does not
	_, err = b.wait(second, nil)
	refused[types.TaskInProgress](b, err)
	b.ok(first, nil)
}

func TestTasksFailOnDemand(t *testing.T) {
	b := start(t)
	id, err := b.ctl.AddFault(control.Fault{Method: "CreateSnapshot_Task", On: control.StageTask, Fault: "FileFault", Message: "broken", Count: 1,
		Properties: map[string]any{"file": "[ds-1] web/web.vmdk"}})
	b.must(err)
	task, err := b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false)
	b.must(err)
	_, err = b.wait(task, nil)
	f := refused[types.FileFault](b, err)
	equal(b, f.File, "[ds-1] web/web.vmdk")
	// As vCenter's: what is said stays, and the operation is another one each time.
	if said := b.task(task.Reference()).Error.LocalizedMessage; !strings.HasPrefix(said, "broken (opID=") {
		t.Fatal(said)
	}
	if b.props("web").Snapshot != nil {
		t.Fatal("a failed task left a snapshot")
	}
	b.snap("web") // once only
	twice, err := b.ctl.AddFault(control.Fault{Method: "CreateSnapshot_Task", On: control.StageTask, Fault: "FileFault", Message: "broken", Count: 2,
		Properties: map[string]any{"file": "[ds-1] web/web.vmdk"}})
	b.must(err)
	var said [2]string
	for i := range said {
		task, err := b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false)
		b.must(err)
		_, _ = b.wait(task, nil)
		said[i] = b.task(task.Reference()).Error.LocalizedMessage
	}
	if said[0] == said[1] {
		t.Fatal("two errors in the same words: ", said[0])
	}
	b.must(b.ctl.RemoveFault(twice))
	list, err := b.ctl.Faults()
	b.must(err)
	equal(b, list[0].Hits, 1)
	b.must(b.ctl.RemoveFault(id))
	if b.ctl.RemoveFault(id) == nil {
		t.Fatal("removed twice")
	}
	_, err = b.ctl.AddFault(control.Fault{Method: "CreateSnapshot_Task", Fault: "TaskInProgress", Count: 1})
	b.must(err)
	_, err = b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false)
	if f := refused[types.TaskInProgress](b, err); f.Task.Value == "" {
		t.Error("a fault without the reference that it must have")
	}
	for _, bad := range []control.Fault{{Method: "X", Fault: "SnapshotIncompatibleDeviceInVm"}, {Method: "X", Fault: "NoSuchType"}, {Method: "X", Fault: "VirtualDisk"},
		{Method: "X", Fault: "FileFault", Properties: map[string]any{"nonsense": 1}}} {
		if _, err := b.ctl.AddFault(bad); err == nil {
			t.Errorf("accepted %+v", bad)
		}
	}
}

func TestCallsFailAndWaitOnDemand(t *testing.T) {
	b := start(t)
	_, err := b.ctl.AddFault(control.Fault{Method: "CreateSnapshot_Task", Fault: "MethodDisabled", Object: b.vm("web").Reference().Value, Skip: 1, Count: 1})
	b.must(err)
	b.snap("web")
	b.snap("plain")
	_, err = b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false)
	refused[types.MethodDisabled](b, err)
	_, err = b.ctl.AddFault(control.Fault{Method: "CurrentTime", DelayMs: 300})
	b.must(err)
	began := time.Now()
	_, err = methods.GetCurrentTime(b.ctx, b.c.Client)
	b.must(err)
	if time.Since(began) < 300*time.Millisecond {
		t.Fatal("not delayed")
	}
	b.must(b.ctl.ClearFaults())
	_, err = b.ctl.AddFault(control.Fault{Method: "CurrentTime", Status: 503, Count: 1})
	b.must(err)
	if _, err = methods.GetCurrentTime(b.ctx, b.c.Client); err == nil {
		t.Fatal("no 503")
	}
	b.must(b.ctl.ResetCalls())
	_, err = methods.GetCurrentTime(b.ctx, b.c.Client)
	b.must(err)
	_, err = b.vm("web").CreateSnapshot(b.ctx, "", "", false, false)
	refused[types.InvalidName](b, err)
	calls, err := b.ctl.Calls()
	b.must(err)
	equal(b, calls["CurrentTime"], control.Count{Calls: 1})
	equal(b, calls["CreateSnapshot_Task"], control.Count{Calls: 1, Faults: 1})
}

func TestWhoCanBeCancelled(t *testing.T) {
	b := start(t)
	b.vc.setTaskTime("", 2*time.Second)
	task, err := b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false)
	b.must(err)
	equal(b, b.task(task.Reference()).Cancelable, true)
	b.must(task.Cancel(b.ctx))
	_, err = b.wait(task, nil)
	refused[types.RequestCanceled](b, err)
	equal(b, b.task(task.Reference()).Cancelled, true)
	refused[types.InvalidState](b, task.Cancel(b.ctx))
	if b.props("web").Snapshot != nil {
		t.Fatal("a cancelled task took a snapshot")
	}
	b.vc.setTaskTime("", 0)
	s := b.snap("web")
	b.vc.setTaskTime("", time.Second)
	res, err := methods.RemoveSnapshot_Task(b.ctx, b.c.Client, &types.RemoveSnapshot_Task{This: s.ref})
	b.must(err)
	removal := object.NewTask(b.c.Client, res.Returnval)
	refused[types.NotSupported](b, removal.Cancel(b.ctx))
	// While it runs the snapshot is gone, and the machine is busy.
	time.Sleep(100 * time.Millisecond)
	if b.props("web").Snapshot != nil {
		t.Fatal("the snapshot is still in the tree")
	}
	_, err = b.vm("web").CreateSnapshot(b.ctx, "x", "", false, false)
	refused[types.TaskInProgress](b, err)
	b.ok(removal, nil)
	refused[types.ManagedObjectNotFound](b, object.NewTask(b.c.Client, types.ManagedObjectReference{Type: "Task", Value: "task-999"}).Cancel(b.ctx))
}
