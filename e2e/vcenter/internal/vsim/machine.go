package vsim

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/disk"
)

// machine is the truth about one VM.
type machine struct {
	vc   *VC
	ref  types.ManagedObjectReference
	vm   *simulator.VirtualMachine
	decl VM
	uuid string // BIOS
	inst string // instance
	dc   *simulator.Datacenter

	// name is guarded by the VC's lock: it is an index.
	name string

	busy struct {
		sync.Mutex
		task *task
	}

	// mu guards all below. It may be held while files are copied: what the property collector shows does not need it.
	mu       sync.Mutex
	host     *host
	home     *store // of the .vmx
	folder   string // of the datastore
	power    types.VirtualMachinePowerState
	tools    types.VirtualMachineToolsRunningStatus
	noTools  bool
	cbt      bool
	extra    map[string]string
	note     string
	cpus     int
	memory   int64
	question *types.VirtualMachineQuestionInfo
	disabled map[string]string // method -> who disabled it
	disks    []*vdisk
	nics     []*nic
	roots    []*snapshot
	current  *snapshot
	snapID   int32
	needs    bool // consolidationNeeded
	// leave makes the next removal leave its deltas behind; stuck is a need for consolidation without any; tries are consolidations that fail.
	leave, stuck bool
	tries        int
	made         int  // disks ever made
	unplaced     bool // removed from the inventory
	shutdown     int  // counts power changes, so that a late guest shutdown does not switch off a VM started since
	bootTime     *time.Time
	generated    time.Time
}

// vdisk is one disk of a machine.
type vdisk struct {
	machine    *machine
	key        int32
	controller int
	unit       int32
	label      string
	uuid       string
	spec       DiskSpec
	store      *store
	base       string // file name without .vmdk
	disk       *disk.Disk
	// kept are points whose snapshot is gone while their layer could not be merged, oldest first.
	kept []string
}

type nic struct {
	key     int32
	unit    int32
	spec    NIC
	mac     string
	network *network
	off     bool
}

// snapshot is one node of a machine's tree.
type snapshot struct {
	machine  *machine
	ref      types.ManagedObjectReference
	mo       *simulator.VirtualMachineSnapshot
	name     string
	text     string
	id       int32
	created  time.Time
	power    types.VirtualMachinePowerState
	quiesced bool
	memory   bool
	frozenAs string
	file     string // .vmsn
	parent   *snapshot
	children []*snapshot
	// disks as they were, with their change IDs then.
	disks  []frozenDisk
	config types.VirtualMachineConfigInfo
	cbt    bool
}

type frozenDisk struct {
	disk     *vdisk
	capacity int64
	changeID string
	frozen   bool // false: not part of the snapshot (independent, physical RDM)
}

// point is the name under which the snapshot's disks are frozen. It outlives the reference, which changes when a VM is registered anew.
func (s *snapshot) point() string { return s.frozenAs }

// hold makes a task the machine's only one, or returns who holds it.
func (m *machine) hold(t *task) *task {
	m.busy.Lock()
	defer m.busy.Unlock()
	if m.busy.task != nil {
		return m.busy.task
	}
	m.busy.task = t
	return nil
}

func (m *machine) release(t *task) {
	m.busy.Lock()
	defer m.busy.Unlock()
	if m.busy.task == t {
		m.busy.task = nil
	}
}

// methodDisabled refuses what another product, or VixDiskLib_PrepareForAccess, has disabled.
func (m *machine) methodDisabled(method string) types.BaseMethodFault {
	m.mu.Lock()
	defer m.mu.Unlock()
	by, ok := m.disabled[method]
	if !ok {
		return nil
	}
	return say(&types.MethodDisabled{Source: by}, "", "The method is disabled by '"+by+"'")
}

// snapshots tells whether snapshots freeze the disk.
func (d *vdisk) snapshots() bool {
	return d.spec.Mode == "persistent" && d.spec.RDM != "physical"
}

// trackable tells whether CBT can follow the disk: not for raw devices in physical mode, nor for independent disks.
func (d *vdisk) trackable() bool {
	return d.snapshots() && (d.spec.Tracked == nil || *d.spec.Tracked) && *d.machine.decl.CBTSupported
}

func (d *vdisk) dir() string { return d.machine.folder }

// path is "[datastore] folder/file.vmdk" of the layer frozen at a point, or of the current one ("").
func (d *vdisk) path(point string) string {
	return d.store.path(d.dir(), d.disk.File(point))
}

// stun is called when the machine's disks are stunned: a pending switch of tracking takes effect.
func (m *machine) stun() {
	for _, d := range m.disks {
		d.disk.Stun()
	}
}

// track tells the disks what ReconfigVM asked for; it holds from the next stun on.
func (m *machine) track(on bool) {
	for _, d := range m.disks {
		d.disk.SetTracking(on && d.trackable())
	}
}

func (m *machine) diskByKey(key int32) *vdisk {
	if i := slices.IndexFunc(m.disks, func(d *vdisk) bool { return d.key == key }); i >= 0 {
		return m.disks[i]
	}
	return nil
}

func (m *machine) closeDisks() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.disks {
		_ = d.disk.Close() // the files stay; the process ends
	}
}

func (m *machine) walk(visit func(*snapshot)) {
	var down func([]*snapshot)
	down = func(list []*snapshot) {
		for _, s := range list {
			visit(s)
			down(s.children)
		}
	}
	down(m.roots)
}

func (s *snapshot) depth() int {
	n := 0
	for at := s; at != nil; at = at.parent {
		n++
	}
	return n
}

// connected refuses what a host that does not answer cannot do.
func (m *machine) connected() types.BaseMethodFault {
	m.host.mu.Lock()
	defer m.host.mu.Unlock()
	switch m.host.state {
	case types.HostSystemConnectionStateDisconnected:
		return say(&types.HostNotConnected{}, "", "The host "+m.host.name+" is disconnected")
	case types.HostSystemConnectionStateNotResponding:
		return say(&types.HostCommunication{}, "", "The host "+m.host.name+" does not respond")
	}
	return nil
}

// ready refuses what cannot be done while a question waits for an answer.
func (m *machine) ready() types.BaseMethodFault {
	if fault := m.connected(); fault != nil {
		return fault
	}
	if m.question != nil {
		return say(&types.QuestionPending{Text: m.question.Text}, "", "The virtual machine waits for an answer: "+m.question.Text)
	}
	return nil
}

// find looks a machine up by reference value, name, or instance UUID.
func (v *VC) find(name string) *machine {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if m := v.machines[name]; m != nil {
		return m
	}
	for _, m := range v.machines {
		if m.name == name || strings.EqualFold(m.inst, name) {
			return m
		}
	}
	return nil
}

func (v *VC) allMachines() []*machine {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]*machine, 0, len(v.machines))
	for _, m := range v.machines {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *machine) int { return strings.Compare(a.ref.Value, b.ref.Value) })
	return out
}

// title is the machine's name.
func (m *machine) title() string {
	m.vc.mu.RLock()
	defer m.vc.mu.RUnlock()
	return m.name
}
