package vsim

import (
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
)

// Many clients at once: cycles on 24 machines, moves, host failures, and readers of everything. Nothing may hang, and no machine may be
// left with a snapshot or in need of consolidation.
func TestACrowdDoesNotHang(t *testing.T) {
	inv, err := ParseInventory([]byte(`
name: crowd
datacenters: [{name: DC1, hosts: [{name: h1}, {name: h2}], datastores: [{name: d1}, {name: d2}]}]
generate: [{prefix: vm, count: 24, vm: {cbt: true, disks: [{size: 8MiB}, {size: 8MiB}]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	b := startInventory(t, inv)
	b.vc.setTaskTime("", 5*time.Millisecond)
	machines := b.vc.allMachines()
	stop := make(chan struct{})
	var side, main sync.WaitGroup
	side.Add(2)
	go func() { // reads everything
		defer side.Done()
		for {
			select {
			case <-stop:
				return
			default:
			}
			v, err := view.NewManager(b.c.Client).CreateContainerView(b.ctx, b.vc.root, []string{"VirtualMachine"}, true)
			if err != nil {
				t.Error(err)
				return
			}
			var vms []mo.VirtualMachine
			if err := v.Retrieve(b.ctx, []string{"VirtualMachine"}, []string{"name", "snapshot", "runtime", "recentTask"}, &vms); err != nil || len(vms) != 24 {
				t.Errorf("%d machines, %v", len(vms), err)
			}
			_ = v.Destroy(b.ctx)
		}
	}()
	go func() { // moves machines about
		defer side.Done()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			m := machines[i%len(machines)].ref.Value
			_ = b.ctl.Migrate(m, []string{"h1", "h2"}[i%2]) // a machine with a task refuses: that is as it should be
			_ = b.ctl.Relocate(m, []string{"d1", "d2"}[i/7%2])
		}
	}()
	cycle := func(m *machine) error {
		vm := object.NewVirtualMachine(b.c.Client, m.ref)
		for range 3 {
			if err := b.ctl.GuestWrite(m.ref.Value, 2000, make([]byte, 4096), 1<<20); err != nil {
				return err
			}
			info, err := b.patient(func() (*object.Task, error) { return vm.CreateSnapshot(b.ctx, "c", "", false, false) })
			if err != nil {
				return err
			}
			ref := info.Result.(types.ManagedObjectReference)
			var s mo.VirtualMachineSnapshot
			if err := property.DefaultCollector(b.c.Client).RetrieveOne(b.ctx, ref, []string{"config.hardware.device"}, &s); err != nil {
				return err
			}
			if _, err := b.patient(func() (*object.Task, error) { return vm.RemoveSnapshot(b.ctx, ref.Value, false, nil) }); err != nil {
				return err
			}
		}
		return nil
	}
	for _, m := range machines {
		main.Add(1)
		go func() {
			defer main.Done()
			if err := cycle(m); err != nil {
				t.Errorf("%s: %v", m.ref.Value, err)
			}
		}()
	}
	main.Wait()
	close(stop)
	side.Wait()
	vms, err := b.ctl.VMs()
	b.must(err)
	for _, vm := range vms {
		if len(vm.Snapshots) > 0 || vm.ConsolidationNeeded || vm.Power != control.PowerOn {
			t.Errorf("left behind: %+v", vm)
		}
	}
}

// patient tries again while another task has the machine.
func (b *bed) patient(call func() (*object.Task, error)) (*types.TaskInfo, error) {
	for {
		task, err := call()
		if err != nil {
			if _, busy := faultOf(err).(types.TaskInProgress); busy {
				time.Sleep(2 * time.Millisecond)
				continue
			}
			return nil, err
		}
		return task.WaitForResult(b.ctx)
	}
}
