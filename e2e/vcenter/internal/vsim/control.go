package vsim

import (
	"maps"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
	"hawser.dev/e2e/vcenter/internal/disk"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

// Control is the control port's view of the installation.
func (v *VC) Control() control.VCenter { return &controller{v} }

type controller struct{ v *VC }

var _ control.VCenter = (*controller)(nil)

// controlError says a fault in the control port's words.
func controlError(fault types.BaseMethodFault) error {
	if fault == nil {
		return nil
	}
	text := message(fault)
	switch fault.(type) {
	case *types.NotFound, *types.ManagedObjectNotFound:
		return control.NotFound("%s", text)
	case *types.InvalidArgument, *types.InvalidName, *types.InvalidDeviceSpec:
		return control.Invalid("%s", text)
	case *types.NoDiskSpace:
		return &control.Error{Code: control.CodeNoSpace, Sentence: text}
	case *types.NotSupported:
		return &control.Error{Code: control.CodeUnsupported, Sentence: text}
	}
	return control.Conflict("%s", text)
}

// machine finds a VM by reference, instance UUID or a name that only one has.
func (c *controller) machine(name string) (*machine, error) {
	var found []*machine
	for _, m := range c.v.allMachines() {
		if m.ref.Value == name || strings.EqualFold(m.inst, name) {
			return m, nil
		}
		if m.title() == name {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, control.NotFound("there is no virtual machine %q", name)
	case 1:
		return found[0], nil
	}
	return nil, control.Conflict("%d virtual machines are called %q: give a reference such as %s", len(found), name, found[0].ref.Value)
}

// with runs f with the machine's lock held.
func (c *controller) with(vm string, f func(*machine) error) error {
	m, err := c.machine(vm)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(m)
}

// alone runs f as a task would be run: not beside another one.
func (c *controller) alone(vm string, f func(*machine) types.BaseMethodFault) error {
	m, err := c.machine(vm)
	if err != nil {
		return err
	}
	t := &task{vc: c.v, method: "the control port", inner: &simulator.Task{}}
	t.inner.Self = types.ManagedObjectReference{Type: "Task", Value: "task-control"}
	if holder := m.hold(t); holder != nil {
		return control.Conflict("%s runs on %s: wait for it", holder.method, m.title())
	}
	defer m.release(t)
	m.mu.Lock()
	defer m.mu.Unlock()
	return controlError(f(m))
}

func (c *controller) disk(m *machine, key int32) (*vdisk, error) {
	if d := m.diskByKey(key); d != nil {
		return d, nil
	}
	var keys []int32
	for _, d := range m.disks {
		keys = append(keys, d.key)
	}
	return nil, control.NotFound("%s has no disk %d: it has %v", m.title(), key, keys)
}

// withDisks runs f for one disk, or for all (0).
func (c *controller) withDisks(vm string, key int32, f func(*vdisk) error) error {
	return c.with(vm, func(m *machine) error {
		list := m.disks
		if key != 0 {
			d, err := c.disk(m, key)
			if err != nil {
				return err
			}
			list = []*vdisk{d}
		}
		for _, d := range list {
			if err := f(d); err != nil {
				return err
			}
		}
		m.settle()
		return nil
	})
}

// snapshot finds a snapshot by reference, or by a name that only one has.
func (c *controller) snapshot(name string) (*snapshot, error) {
	c.v.mu.RLock()
	s := c.v.snaps[name]
	c.v.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	var found []*snapshot
	for _, m := range c.v.allMachines() {
		m.mu.Lock()
		m.walk(func(s *snapshot) {
			if s.name == name {
				found = append(found, s)
			}
		})
		m.mu.Unlock()
	}
	switch len(found) {
	case 0:
		return nil, control.NotFound("there is no snapshot %q", name)
	case 1:
		return found[0], nil
	}
	return nil, control.Conflict("%d snapshots are called %q: give a reference such as %s", len(found), name, found[0].ref.Value)
}

// VMs lists all machines.
func (c *controller) VMs() ([]control.VM, error) {
	out := []control.VM{}
	for _, m := range c.v.allMachines() {
		m.mu.Lock()
		out = append(out, m.told())
		m.mu.Unlock()
	}
	return out, nil
}

// VM tells of one machine.
func (c *controller) VM(vm string) (out control.VM, err error) {
	err = c.with(vm, func(m *machine) error {
		out = m.told()
		return nil
	})
	return out, err
}

var powerNames = map[types.VirtualMachinePowerState]control.Power{on: control.PowerOn, off: control.PowerOff, suspended: control.Suspended}

func (m *machine) told() control.VM {
	out := control.VM{
		Ref: m.ref.Value, Name: m.title(), InstanceUUID: m.inst, Host: m.host.name, ChangeTracking: m.cbt, ConsolidationNeeded: m.needs,
		Power: powerNames[m.power],
		Tools: control.ToolsNotRunning, Disks: []control.Disk{}, Snapshots: []control.Snapshot{},
	}
	switch {
	case m.noTools:
		out.Tools = control.ToolsNotInstalled
	case m.tools == types.VirtualMachineToolsRunningStatusGuestToolsRunning:
		out.Tools = control.ToolsRunning
	}
	for method := range m.disabled {
		out.DisabledMethods = append(out.DisabledMethods, method)
	}
	slices.Sort(out.DisabledMethods)
	for _, d := range m.disks {
		out.Disks = append(out.Disks, d.told("", d.disk.Capacity(), d.disk.ChangeID("")))
	}
	m.walk(func(s *snapshot) { out.Snapshots = append(out.Snapshots, s.told()) })
	return out
}

func (d *vdisk) told(point string, capacity int64, changeID string) control.Disk {
	out := control.Disk{
		Key: d.key, Label: d.label, UUID: d.uuid, Capacity: capacity, Datastore: d.store.name, File: d.path(point), ChangeID: changeID,
	}
	if point == "" {
		base, deltas := d.disk.UsedBy()
		out.Used, out.Deltas = base+deltas, deltas
	}
	return out
}

func (s *snapshot) told() control.Snapshot {
	out := control.Snapshot{
		Ref: s.ref.Value, Name: s.name, Description: s.text, Created: s.created, Current: s.machine.current == s, Disks: []control.Disk{},
	}
	if s.parent != nil {
		out.Parent = s.parent.ref.Value
	}
	for _, f := range s.disks {
		if f.frozen {
			out.Disks = append(out.Disks, f.disk.told(s.point(), f.capacity, f.changeID))
		}
	}
	return out
}

// VDDK drives the data path.
func (c *controller) VDDK() *vddk.Faults { return c.v.faults }

// CreateSnapshot takes a snapshot that is not the caller's: a foreign one.
func (c *controller) CreateSnapshot(vm, name, description string) (out control.Snapshot, err error) {
	err = c.aloneErr(vm, func(m *machine) error {
		s, fault := m.freeze(snapshotRequest{name: name, text: description})
		if fault != nil {
			return controlError(fault)
		}
		out = s.told()
		return nil
	})
	return out, err
}

// RemoveSnapshot removes one.
func (c *controller) RemoveSnapshot(snap string) error {
	s, err := c.snapshot(snap)
	if err != nil {
		return err
	}
	return c.alone(s.machine.ref.Value, func(m *machine) types.BaseMethodFault {
		return m.merge(m.unlink(s, false), true)
	})
}

// Revert goes back to a snapshot; hidden is the host that goes on with the same CBT generation.
func (c *controller) Revert(snap string, hidden bool) error {
	s, err := c.snapshot(snap)
	if err != nil {
		return err
	}
	return c.alone(s.machine.ref.Value, func(m *machine) types.BaseMethodFault { return m.revert(s, hidden) })
}

// Migrate is vMotion.
func (c *controller) Migrate(vm, name string) error {
	h, err := c.host(name)
	if err != nil {
		return err
	}
	return c.alone(vm, func(m *machine) types.BaseMethodFault { return m.moveTo(move{host: h}) })
}

// Relocate is storage vMotion.
func (c *controller) Relocate(vm, name string) error {
	s, err := c.store(name)
	if err != nil {
		return err
	}
	return c.alone(vm, func(m *machine) types.BaseMethodFault { return m.moveTo(move{home: s}) })
}

// Rename changes the name.
func (c *controller) Rename(vm, name string) error {
	return c.alone(vm, func(m *machine) types.BaseMethodFault {
		if fault := m.rename(name); fault != nil {
			return fault
		}
		m.settle()
		return nil
	})
}

// Unregister takes a VM out of the inventory, whatever its power.
func (c *controller) Unregister(vm string) error {
	return c.with(vm, func(m *machine) error {
		c.v.leave(m)
		c.v.handles.dropMachine(m)
		return nil
	})
}

// SetPower changes the power at once.
func (c *controller) SetPower(vm string, p control.Power) error {
	state, ok := map[control.Power]types.VirtualMachinePowerState{control.PowerOn: on, control.PowerOff: off, control.Suspended: suspended}[p]
	if !ok {
		return control.Invalid("power is %q: it is on, off or suspended", p)
	}
	m, err := c.machine(vm)
	if err != nil {
		return err
	}
	return controlError(m.setPowerNow(state))
}

// SetTools changes VMware Tools.
func (c *controller) SetTools(vm string, t control.Tools) error {
	return c.with(vm, func(m *machine) error {
		if err := m.setTools(string(t)); err != nil {
			return err
		}
		m.show()
		return nil
	})
}

func (m *machine) setTools(t string) error {
	switch control.Tools(t) {
	case control.ToolsRunning:
		m.noTools, m.tools = false, types.VirtualMachineToolsRunningStatusGuestToolsRunning
	case control.ToolsNotRunning:
		m.noTools, m.tools = false, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	case control.ToolsNotInstalled:
		m.noTools, m.tools = true, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	default:
		return control.Invalid("tools is %q: it is running, notRunning or notInstalled", t)
	}
	return nil
}

// DisableMethods replaces what is disabled, as another backup product does.
func (c *controller) DisableMethods(vm string, methods []string) error {
	return c.with(vm, func(m *machine) error {
		m.disabled = map[string]string{}
		for _, name := range methods {
			m.disabled[name] = "another product"
		}
		m.show()
		return nil
	})
}

// LeaveConsolidation makes a machine need consolidation.
func (c *controller) LeaveConsolidation(vm string, tries int) error {
	return c.with(vm, func(m *machine) error {
		if tries < 0 {
			return control.Invalid("tries cannot be negative")
		}
		m.tries = tries
		if len(m.roots) > 0 {
			m.leave = true
		} else {
			m.stuck = true
		}
		m.settle()
		return nil
	})
}

func (c *controller) host(name string) (*host, error) {
	c.v.mu.RLock()
	defer c.v.mu.RUnlock()
	for _, h := range c.v.hosts {
		if h.name == name || h.ref.Value == name {
			return h, nil
		}
	}
	return nil, control.NotFound("there is no host %q", name)
}

func (c *controller) store(name string) (*store, error) {
	for _, s := range c.v.allStores() {
		if s.name == name || s.ref.Value == name {
			return s, nil
		}
	}
	return nil, control.NotFound("there is no datastore %q", name)
}

// Datastores lists all.
func (c *controller) Datastores() ([]control.Datastore, error) {
	out := []control.Datastore{}
	for _, s := range c.v.allStores() {
		out = append(out, control.Datastore{
			Ref: s.ref.Value, Name: s.name, Capacity: s.capacity.Load(), Free: s.free(), Deltas: c.v.usage.deltas(s),
		})
	}
	slices.SortFunc(out, func(a, b control.Datastore) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// SetDatastore changes capacity, or free space by ballast.
func (c *controller) SetDatastore(name string, capacity, free *int64) error {
	s, err := c.store(name)
	if err != nil {
		return err
	}
	if capacity != nil {
		if *capacity < 0 {
			return control.Invalid("capacity cannot be negative")
		}
		s.capacity.Store(*capacity)
	}
	if free != nil {
		room := s.capacity.Load() - c.v.usage.of(s)
		if *free < 0 || *free > room {
			return control.Conflict("%s can have 0 to %d bytes free with the disks it holds", name, max(0, room))
		}
		s.other.Store(room - *free)
	}
	s.shown.Store(-1)
	s.show()
	return nil
}

// Hosts lists all.
func (c *controller) Hosts() ([]control.Host, error) {
	c.v.mu.RLock()
	var list []*host
	for _, h := range c.v.hosts {
		list = append(list, h)
	}
	c.v.mu.RUnlock()
	out := []control.Host{}
	for _, h := range list {
		h.mu.Lock()
		out = append(out, control.Host{
			Ref: h.ref.Value, Name: h.name, Maintenance: h.maintenance, Connection: control.Connection(h.state), OpenDisks: c.v.handles.count(h),
		})
		h.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b control.Host) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// SetHost changes what is not nil.
func (c *controller) SetHost(name string, maintenance *bool, connection *control.Connection) error {
	h, err := c.host(name)
	if err != nil {
		return err
	}
	if connection != nil {
		switch *connection {
		case control.Connected, control.Disconnected, control.NotResponding:
		default:
			return control.Invalid("connection is %q: it is connected, disconnected or notResponding", *connection)
		}
		h.setState(types.HostSystemConnectionState(*connection))
	}
	if maintenance != nil {
		h.setMaintenance(*maintenance)
	}
	return nil
}

// Sessions lists who is logged in.
func (c *controller) Sessions() ([]control.Session, error) { return c.v.sessions.list(), nil }

// ExpireSessions ends the sessions of a user, or all.
func (c *controller) ExpireSessions(user string) (int, error) { return c.v.sessions.dropAll(user), nil }

// LimitSessions is maxSessionCount.
func (c *controller) LimitSessions(n int) error {
	if n < 0 {
		return control.Invalid("the limit cannot be negative; 0 returns to the inventory's")
	}
	c.v.sessions.setLimit(n)
	return nil
}

// RefusedLogins counts them by account.
func (c *controller) RefusedLogins() (map[string]int, error) {
	c.v.mu.RLock()
	defer c.v.mu.RUnlock()
	return maps.Clone(c.v.refused), nil
}

// EditUser is what an administrator does to an account. Sessions that it has stay, as they do in vCenter.
func (c *controller) EditUser(name string, password *string, give, take []string) error {
	for _, id := range append(slices.Clone(give), take...) {
		if !knownPrivilege(id) {
			return control.Invalid("there is no privilege %q", id)
		}
	}
	c.v.mu.Lock()
	defer c.v.mu.Unlock()
	old := c.v.users[account(name)]
	if old == nil {
		return control.NotFound("there is no user %s", name)
	}
	// Whoever looks at the old one meanwhile sees it as it was.
	edited := &user{name: old.name, password: old.password, grants: map[types.ManagedObjectReference]grant{}}
	if password != nil {
		edited.password = *password
	}
	for ref, g := range old.grants {
		if g.all && len(take) > 0 {
			return control.Conflict("%s is an administrator: no privilege can be taken away", old.name)
		}
		g.privileges = maps.Clone(g.privileges)
		for _, id := range give {
			g.privileges[id] = true
		}
		for _, id := range take {
			delete(g.privileges, id)
		}
		edited.grants[ref] = g
	}
	c.v.users[account(name)] = edited
	return nil
}

// Faults lists what is injected.
func (c *controller) Faults() ([]control.Fault, error) { return c.v.inject.list(), nil }

// AddFault injects.
func (c *controller) AddFault(f control.Fault) (int, error) {
	if err := f.Check(); err != nil {
		return 0, err
	}
	return c.v.inject.add(f)
}

// RemoveFault takes one away.
func (c *controller) RemoveFault(id int) error {
	if !c.v.inject.remove(id) {
		return control.NotFound("there is no fault %d", id)
	}
	return nil
}

// ClearFaults takes all away.
func (c *controller) ClearFaults() error {
	c.v.inject.clear()
	return nil
}

// Calls counts calls by method.
func (c *controller) Calls() (map[string]control.Count, error) { return c.v.calls.list(), nil }

// ResetCalls counts anew.
func (c *controller) ResetCalls() error {
	c.v.calls.reset()
	return nil
}

// Reset takes away all that was injected, limited or disabled.
func (c *controller) Reset() error {
	c.v.inject.clear()
	c.v.faults.ClearAll()
	c.v.calls.reset()
	c.v.faults.ResetCounts()
	c.v.sessions.setLimit(0)
	for _, m := range c.v.allMachines() {
		m.mu.Lock()
		m.disabled, m.leave, m.stuck, m.tries = nil, false, false, 0
		for _, d := range m.disks {
			d.disk.SetQuirks(disk.Quirks{})
			d.disk.SetPageSpan(int64(c.v.inv.Settings.PageSpan))
		}
		m.settle()
		m.mu.Unlock()
	}
	for _, s := range c.v.allStores() {
		s.other.Store(0)
		s.capacity.Store(int64(s.decl.Capacity))
		s.show()
	}
	return nil
}

func (s *sessions) list() []control.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []control.Session{}
	for key, x := range s.live {
		out = append(out, control.Session{Key: key, User: x.user, Login: x.inner.LoginTime, Last: x.last})
	}
	slices.SortFunc(out, func(a, b control.Session) int { return a.Login.Compare(b.Login) })
	return out
}

func (s *sessions) setLimit(n int) {
	if n == 0 {
		n = s.vc.inv.Settings.MaxSessions
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
}
