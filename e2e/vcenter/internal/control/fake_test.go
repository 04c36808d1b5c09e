package control

import (
	"fmt"
	"slices"

	"hawser.dev/e2e/vcenter/internal/disk"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

// fake is a vCenter of one VM with one disk of real bytes; all else it only writes down.
type fake struct {
	disk  *disk.Disk
	log   []string
	fails error // what every call answers, where not nil
	vddk  *vddk.Faults
}

func (f *fake) note(format string, a ...any) error {
	f.log = append(f.log, fmt.Sprintf(format, a...))
	return f.fails
}

func (f *fake) find(vm string, key int32) error {
	if vm != "vm-1" {
		return NotFound("there is no VM %q", vm)
	}
	if key != 2000 {
		return NotFound("%s has no disk %d", vm, key)
	}
	return f.fails
}

func (f *fake) VMs() ([]VM, error)        { return nil, f.note("vms") }
func (f *fake) VM(vm string) (VM, error)  { return VM{Ref: vm}, f.note("vm %s", vm) }
func (f *fake) VDDK() *vddk.Faults        { return f.vddk }
func (f *fake) Hosts() ([]Host, error)    { return nil, f.note("hosts") }
func (f *fake) Faults() ([]Fault, error)  { return nil, f.note("faults") }
func (f *fake) ClearFaults() error        { return f.note("clear faults") }
func (f *fake) RemoveFault(id int) error  { return f.note("remove fault %d", id) }
func (f *fake) ResetCalls() error         { return f.note("reset calls") }
func (f *fake) Reset() error              { return f.note("reset") }
func (f *fake) LimitSessions(n int) error { return f.note("limit %d", n) }
func (f *fake) RefusedLogins() (map[string]int, error) {
	return map[string]int{"bob": 2}, f.note("refused")
}
func (f *fake) EditUser(user string, password *string, grant, revoke []string) error {
	return f.note("user %s %v %v %v", user, password != nil, grant, revoke)
}
func (f *fake) Unregister(vm string) error { return f.note("unregister %s", vm) }

func (f *fake) Datastores() ([]Datastore, error) { return nil, f.note("datastores") }
func (f *fake) Sessions() ([]Session, error)     { return nil, f.note("sessions") }

func (f *fake) Calls() (map[string]Count, error) {
	return map[string]Count{"Login": {2, 1}}, f.note("calls")
}

func (f *fake) AddFault(x Fault) (int, error) { return 7, f.note("fault %+v", x) }

func (f *fake) ExpireSessions(user string) (int, error) { return 3, f.note("expire %q", user) }

func (f *fake) GuestWrite(vm string, key int32, p []byte, off int64) error {
	if err := f.find(vm, key); err != nil {
		return err
	}
	_, err := f.disk.WriteAt(p, off)
	return err
}

func (f *fake) GuestZero(vm string, key int32, off, n int64) error {
	if err := f.find(vm, key); err != nil {
		return err
	}
	return f.disk.Zero(off, n)
}

func (f *fake) CurrentDisk(vm string, key int32) (disk.Reader, error) {
	if err := f.find(vm, key); err != nil {
		return nil, err
	}
	return f.disk.Point("")
}

func (f *fake) SnapshotDisk(snapshot string, key int32) (disk.Reader, error) {
	if err := f.find("vm-1", key); err != nil {
		return nil, err
	}
	return f.disk.Point(snapshot)
}

func (f *fake) ResetCBT(vm string, key int32) error { return f.note("reset cbt %s %d", vm, key) }

func (f *fake) AddDisk(vm string, s NewDisk) (Disk, error) {
	return Disk{Key: 2001}, f.note("add %s %+v", vm, s)
}

func (f *fake) RemoveDisk(vm string, key int32) error { return f.note("remove disk %s %d", vm, key) }

func (f *fake) ReplaceDisk(vm string, key int32, size int64) (Disk, error) {
	return Disk{Key: key}, f.note("replace %s %d %d", vm, key, size)
}

func (f *fake) GrowDisk(vm string, key int32, n int64) error {
	return f.note("grow %s %d %d", vm, key, n)
}

func (f *fake) SetQuirks(vm string, key int32, q disk.Quirks) error {
	return f.note("quirks %s %d %+v", vm, key, q)
}

func (f *fake) SetPageSpan(vm string, key int32, n int64) error {
	return f.note("span %s %d %d", vm, key, n)
}

func (f *fake) CreateSnapshot(vm, name, description string) (Snapshot, error) {
	return Snapshot{Ref: "snapshot-9"}, f.note("snapshot %s %q %q", vm, name, description)
}

func (f *fake) RemoveSnapshot(s string) error { return f.note("remove snapshot %s", s) }

func (f *fake) Revert(s string, hidden bool) error { return f.note("revert %s %v", s, hidden) }

func (f *fake) LeaveConsolidation(vm string, n int) error {
	return f.note("consolidation %s %d", vm, n)
}

func (f *fake) Migrate(vm, host string) error              { return f.note("migrate %s %s", vm, host) }
func (f *fake) Relocate(vm, store string) error            { return f.note("relocate %s %s", vm, store) }
func (f *fake) SetPower(vm string, s Power) error          { return f.note("power %s %s", vm, s) }
func (f *fake) SetTools(vm string, s Tools) error          { return f.note("tools %s %s", vm, s) }
func (f *fake) Rename(vm, name string) error               { return f.note("rename %s %s", vm, name) }
func (f *fake) DisableMethods(vm string, m []string) error { return f.note("disable %s %v", vm, m) }

func (f *fake) SetDatastore(name string, capacity, free *int64) error {
	return f.note("datastore %s %s %s", name, show(capacity), show(free))
}

func (f *fake) SetHost(name string, maintenance *bool, c *Connection) error {
	return f.note("host %s %s %s", name, show(maintenance), show(c))
}

func show[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

// take empties the log.
func (f *fake) take() []string {
	defer func() { f.log = nil }()
	return slices.Clone(f.log)
}
