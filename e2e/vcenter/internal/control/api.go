package control

import (
	"fmt"
	"time"

	"hawser.dev/e2e/vcenter/internal/disk"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

// VCenter is what the control port drives. vm is a reference ("vm-62"), an instance UUID or a name that only one has; snapshot a
// reference ("snapshot-74") or a name that only one has; disk is the VirtualDisk's key; hosts and datastores go by name or reference.
//
// Errors are of type *Error; any other is answered as 500. What takes a task on a real vCenter happens here at once, as if an
// administrator had done it: the call returns when it is done.
type VCenter interface {
	VMs() ([]VM, error)
	VM(vm string) (VM, error)

	// The guest. Writing needs a VM that is powered on.
	GuestWrite(vm string, disk int32, p []byte, off int64) error
	GuestZero(vm string, disk int32, off, n int64) error
	// CurrentDisk reads what the guest would read now.
	CurrentDisk(vm string, disk int32) (disk.Reader, error)
	// SnapshotDisk reads what was frozen: the oracle.
	SnapshotDisk(snapshot string, disk int32) (disk.Reader, error)

	// The administrator.
	ResetCBT(vm string, disk int32) error // 0: all disks
	AddDisk(vm string, spec NewDisk) (Disk, error)
	RemoveDisk(vm string, disk int32) error
	// ReplaceDisk puts an empty disk of another uuid in the place of one, with the same key and controller slot; size 0 keeps the size.
	ReplaceDisk(vm string, disk int32, size int64) (Disk, error)
	GrowDisk(vm string, disk int32, capacity int64) error
	SetQuirks(vm string, disk int32, q disk.Quirks) error // 0: all disks
	SetPageSpan(vm string, disk int32, bytes int64) error // 0: all disks
	CreateSnapshot(vm, name, description string) (Snapshot, error)
	RemoveSnapshot(snapshot string) error
	Revert(snapshot string, hidden bool) error
	// LeaveConsolidation makes the VM need consolidation: the next removal (or the present state, if a snapshot was removed already) leaves
	// its delta behind, and so many ConsolidateVMDisks_Task fail before one does it.
	LeaveConsolidation(vm string, tries int) error
	Migrate(vm, host string) error
	Relocate(vm, datastore string) error
	SetPower(vm string, state Power) error
	SetTools(vm string, state Tools) error
	Rename(vm, name string) error
	Unregister(vm string) error
	DisableMethods(vm string, methods []string) error // replaces what was disabled before

	Datastores() ([]Datastore, error)
	// SetDatastore changes what is not nil: the capacity, or the free space (by ballast that belongs to no VM).
	SetDatastore(name string, capacity, free *int64) error
	Hosts() ([]Host, error)
	// SetHost changes what is not nil.
	SetHost(name string, maintenance *bool, connection *Connection) error

	Sessions() ([]Session, error)
	// ExpireSessions ends the sessions of a user, or all for "", and tells how many.
	ExpireSessions(user string) (int, error)
	// LimitSessions is vpxd's maxSessionCount; 0 returns to what the inventory says.
	LimitSessions(n int) error
	// RefusedLogins counts, by account and since the start, over SOAP and the data path: what locks an account out.
	RefusedLogins() (map[string]int, error)
	// EditUser changes a user's password, where it is not nil, and gives and takes privileges wherever it has any.
	EditUser(user string, password *string, grant, revoke []string) error

	Faults() ([]Fault, error)
	AddFault(f Fault) (id int, err error)
	RemoveFault(id int) error
	ClearFaults() error

	// Calls counts the calls of each method since the start or the last ResetCalls, refused ones too.
	Calls() (map[string]Count, error)
	ResetCalls() error

	// Reset takes away all that was injected, limited or disabled; contents, snapshots and hosts stay as they are.
	Reset() error

	// VDDK drives the data path.
	VDDK() *vddk.Faults
}

// VM is what the control port tells of a virtual machine.
type VM struct {
	Ref                 string     `json:"ref"`
	Name                string     `json:"name"`
	InstanceUUID        string     `json:"instanceUuid"`
	Host                string     `json:"host"`
	Power               Power      `json:"power"`
	Tools               Tools      `json:"tools"`
	ChangeTracking      bool       `json:"changeTracking"` // as configured; whether a disk is tracked says the disk
	ConsolidationNeeded bool       `json:"consolidationNeeded"`
	DisabledMethods     []string   `json:"disabledMethods,omitempty"`
	Disks               []Disk     `json:"disks"`
	Snapshots           []Snapshot `json:"snapshots"`
}

// Disk is one disk of a VM, as it is now or as a snapshot has it.
type Disk struct {
	Key       int32  `json:"key"`
	Label     string `json:"label"`
	UUID      string `json:"uuid"`
	Capacity  int64  `json:"capacity"`
	Datastore string `json:"datastore"`
	File      string `json:"file"`               // "[datastore] folder/disk.vmdk"
	ChangeID  string `json:"changeId,omitempty"` // empty where it is not tracked
	Used      int64  `json:"used,omitempty"`
	Deltas    int64  `json:"deltas,omitempty"` // of Used, what snapshots eat
}

// Snapshot is one snapshot of a VM.
type Snapshot struct {
	Ref         string    `json:"ref"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Parent      string    `json:"parent,omitempty"`
	Current     bool      `json:"current,omitempty"`
	Created     time.Time `json:"created"`
	Disks       []Disk    `json:"disks"`
}

// NewDisk is a disk to be added.
type NewDisk struct {
	Size        int64  `json:"size"`
	Datastore   string `json:"datastore,omitempty"` // empty: where the VM is
	Thick       bool   `json:"thick,omitempty"`
	Mode        string `json:"mode,omitempty"` // persistent (also when empty), independent_persistent, independent_nonpersistent
	RDM         string `json:"rdm,omitempty"`  // virtual or physical
	MultiWriter bool   `json:"multiWriter,omitempty"`
}

// Power is a power state.
type Power string

// The power states.
const (
	PowerOn   Power = "on"
	PowerOff  Power = "off"
	Suspended Power = "suspended"
)

// Tools is the state of VMware Tools.
type Tools string

// The states of VMware Tools.
const (
	ToolsRunning      Tools = "running"
	ToolsNotRunning   Tools = "notRunning"
	ToolsNotInstalled Tools = "notInstalled"
)

// Connection is how vCenter sees a host.
type Connection string

// The states of a host.
const (
	Connected     Connection = "connected"
	Disconnected  Connection = "disconnected"
	NotResponding Connection = "notResponding"
)

// Datastore is one datastore.
type Datastore struct {
	Ref      string `json:"ref"`
	Name     string `json:"name"`
	Capacity int64  `json:"capacity"`
	Free     int64  `json:"free"`
	Deltas   int64  `json:"deltas"` // what snapshots eat
}

// Host is one host.
type Host struct {
	Ref         string     `json:"ref"`
	Name        string     `json:"name"`
	Maintenance bool       `json:"maintenance"`
	Connection  Connection `json:"connection"`
	OpenDisks   int        `json:"openDisks"`
}

// Session is one session.
type Session struct {
	Key   string    `json:"key"`
	User  string    `json:"user"`
	Login time.Time `json:"login"`
	Last  time.Time `json:"last"`
}

// Count is how often something was called, and how often that ended in a fault.
type Count struct {
	Calls  int64 `json:"calls"`
	Faults int64 `json:"faults"`
}

// Stage is where a fault strikes.
type Stage string

// The stages of a call.
const (
	// StageCall refuses (or delays) the call itself, before anything happens.
	StageCall Stage = "call"
	// StageTask lets the call return its task, and that ends so (or takes so long).
	StageTask Stage = "task"
	// StageHTTP answers with an HTTP status, before anybody looks at the call.
	StageHTTP Stage = "http"
)

// Fault is what is injected into calls of a method.
type Fault struct {
	ID int `json:"id,omitempty"` // given by AddFault
	// Method is the SOAP method, such as CreateSnapshotEx_Task; "*" is any. A method's other spelling (CreateSnapshot_Task) is another one.
	Method string `json:"method"`
	// Object is the reference that the method is called on; empty is any.
	Object string `json:"object,omitempty"`
	// On is the stage; empty is call, or http where Status is given.
	On Stage `json:"on,omitempty"`
	// Fault is the vim25 type, such as FileFault. Empty: the call only waits for Delay.
	Fault string `json:"fault,omitempty"`
	// Message is the localized message. Properties are those of the fault's type, as vim25 spells them, such as file or privilegeId.
	Message    string         `json:"message,omitempty"`
	Properties map[string]any `json:"properties,omitempty"`
	// Status is the HTTP status, for StageHTTP: 503.
	Status int `json:"status,omitempty"`
	// DelayMs is waited before the call (stage call, http) or in the task.
	DelayMs int64 `json:"delayMs,omitempty"`
	// Skip lets so many calls pass first, Count strikes so many; 0 is all.
	Skip  int `json:"skip,omitempty"`
	Count int `json:"count,omitempty"`
	// Hits is how often it struck.
	Hits int `json:"hits"`
}

// Check says in a sentence what is wrong with a fault, and fills in On.
func (f *Fault) Check() error {
	if f.On == "" {
		f.On = StageCall
		if f.Status != 0 {
			f.On = StageHTTP
		}
	}
	switch {
	case f.Method == "":
		return Invalid("method is missing: give a SOAP method such as CreateSnapshotEx_Task, or \"*\"")
	case f.On != StageCall && f.On != StageTask && f.On != StageHTTP:
		return Invalid("on is %q: it is call, task or http", f.On)
	case f.Skip < 0 || f.Count < 0 || f.DelayMs < 0:
		return Invalid("skip, count and delayMs cannot be negative")
	case f.On == StageHTTP && (f.Status < 400 || f.Status > 599):
		return Invalid("status is %d: on http needs one of 400 to 599, such as 503", f.Status)
	case f.On == StageHTTP && f.Fault != "":
		return Invalid("an HTTP status carries no fault: leave fault out, or set on to call or task")
	case f.On != StageHTTP && f.Status != 0:
		return Invalid("status is for on http only")
	case f.On != StageHTTP && f.Fault == "" && f.DelayMs == 0:
		return Invalid("it does nothing: give fault (a vim25 type such as FileFault), delayMs, or both")
	case f.Fault == "" && (f.Message != "" || len(f.Properties) > 0):
		return Invalid("message and properties belong to a fault: give its type")
	}
	return nil
}

// Code is the kind of an error.
type Code int

// The kinds of errors, with their HTTP status.
const (
	CodeInvalid     Code = 400
	CodeNotFound    Code = 404
	CodeConflict    Code = 409
	CodeTooLarge    Code = 413
	CodeNoSpace     Code = 507
	CodeUnsupported Code = 501
)

// Error is an error with a sentence for people.
type Error struct {
	Code     Code
	Sentence string
}

func (e *Error) Error() string { return e.Sentence }

// Invalid is a request that makes no sense.
func Invalid(format string, a ...any) *Error {
	return &Error{CodeInvalid, fmt.Sprintf(format, a...)}
}

// NotFound is a thing that does not exist.
func NotFound(format string, a ...any) *Error {
	return &Error{CodeNotFound, fmt.Sprintf(format, a...)}
}

// Conflict is a request that the present state does not allow.
func Conflict(format string, a ...any) *Error {
	return &Error{CodeConflict, fmt.Sprintf(format, a...)}
}
