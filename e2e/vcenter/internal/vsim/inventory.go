package vsim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Inventory is what the simulated vCenter has: read from a YAML file, in which an unknown field is an error.
type Inventory struct {
	// Name of the installation; vCenter's instanceUuid and those of its virtual machines derive from it, so they are the same at each start.
	Name string `yaml:"name"`
	// Version of vCenter and of its hosts, such as 8.0.3.
	Version     string       `yaml:"version"`
	Settings    Settings     `yaml:"settings"`
	Datacenters []Datacenter `yaml:"datacenters"`
	Users       []User       `yaml:"users"`
	VMs         []VM         `yaml:"vms"`
	Generate    []Generate   `yaml:"generate"`
}

// Settings are the limits and times of the installation.
type Settings struct {
	// SessionIdle is how long a session lives without a call; 30 minutes on a real vCenter.
	SessionIdle Duration `yaml:"sessionIdle"`
	// MaxSessions is vpxd's maxSessionCount: at the limit, who has no session gets HTTP 503.
	MaxSessions int `yaml:"maxSessions"`
	// TaskTime is how long each task takes; TaskTimes overrides it by method, such as RemoveSnapshot_Task.
	TaskTime  Duration            `yaml:"taskTime"`
	TaskTimes map[string]Duration `yaml:"taskTimes"`
	// GuestShutdown is how long a guest takes to shut down.
	GuestShutdown Duration `yaml:"guestShutdown"`
	// BusyFault says where TaskInProgress shows: "call" (the method fails) or "task" (its task does).
	BusyFault string `yaml:"busyFault"`
	// MaxSnapshotDepth is the longest chain of snapshots: 32 (KB 1025279).
	MaxSnapshotDepth int `yaml:"maxSnapshotDepth"`
	// SnapshotReserve is what a datastore must have free per disk for a snapshot to be taken.
	SnapshotReserve Size `yaml:"snapshotReserve"`
	// VDDKDisks and VDDKDisksPerHost are the open disks allowed: 52 through a vCenter, 50 on one host (VDDK 8.0 guide, NFC session limits).
	VDDKDisks        int `yaml:"vddkDisks"`
	VDDKDisksPerHost int `yaml:"vddkDisksPerHost"`
	// PageSpan and KeepEpochs tune changed block tracking: see package disk.
	PageSpan   Size `yaml:"pageSpan"`
	KeepEpochs int  `yaml:"keepEpochs"`
	// Growth is what growing a disk does to its tracking: keeps, resets, or breaks (KB 2090639).
	Growth string `yaml:"growth"`
	// RelocateResetsTracking makes storage vMotion start a new CBT generation, as some releases do (KB 1020128).
	RelocateResetsTracking bool `yaml:"relocateResetsTracking"`
}

// Datacenter is one datacenter with what stands in it.
type Datacenter struct {
	Name       string      `yaml:"name"`
	Networks   []string    `yaml:"networks"`
	Clusters   []Cluster   `yaml:"clusters"`
	Hosts      []Host      `yaml:"hosts"`
	Datastores []Datastore `yaml:"datastores"`
}

// Cluster is a cluster of hosts.
type Cluster struct {
	Name  string `yaml:"name"`
	Hosts []Host `yaml:"hosts"`
}

// Host is one ESXi host.
type Host struct {
	Name        string `yaml:"name"`
	Version     string `yaml:"version"`
	Build       string `yaml:"build"`
	State       string `yaml:"state"`
	Maintenance bool   `yaml:"maintenance"`
}

// Datastore is one datastore, seen by the hosts named, or by all of its datacenter.
type Datastore struct {
	Name     string   `yaml:"name"`
	Type     string   `yaml:"type"`
	Capacity Size     `yaml:"capacity"`
	Hosts    []string `yaml:"hosts"`
	// Allocated says what changeId "*" answers here: exact, whole, or fault. Only VMFS is known to be exact.
	Allocated string `yaml:"allocated"`
}

// User is one account and what it may do where.
type User struct {
	Name        string       `yaml:"name"`
	Password    string       `yaml:"password"`
	Permissions []Permission `yaml:"permissions"`
}

// Permission gives a user a role, or privileges, on an entity.
type Permission struct {
	// Entity is an inventory path, "/" for the root folder.
	Entity string `yaml:"entity"`
	// Role is Admin, ReadOnly or NoAccess; Privileges make a role of their own (with ReadOnly's).
	Role       string   `yaml:"role"`
	Privileges []string `yaml:"privileges"`
	// Propagate to what stands below; true unless set to false.
	Propagate *bool `yaml:"propagate"`
}

// VM is one virtual machine.
type VM struct {
	Name       string `yaml:"name"`
	Datacenter string `yaml:"datacenter"`
	// Folder below the datacenter's vm folder: "prod/web"; made when missing.
	Folder    string `yaml:"folder"`
	Host      string `yaml:"host"`
	Datastore string `yaml:"datastore"`
	Firmware  string `yaml:"firmware"`
	Guest     string `yaml:"guest"`
	Hardware  int    `yaml:"hardware"`
	CPUs      int    `yaml:"cpus"`
	Memory    Size   `yaml:"memory"`
	// Tools is running, notRunning or notInstalled.
	Tools string `yaml:"tools"`
	// QuiesceFails is how quiesced snapshots fail: application (the guest's scripts) or filesystem (its I/O was not held long enough).
	QuiesceFails string `yaml:"quiesceFails"`
	// Power is on, off or suspended.
	Power string `yaml:"power"`
	// CBT is changeTrackingEnabled, in effect since the VM's last power-on.
	CBT bool `yaml:"cbt"`
	// CBTSupported is capability.changeTrackingSupported: true unless set, or the hardware version is below 7.
	CBTSupported   *bool  `yaml:"cbtSupported"`
	Template       bool   `yaml:"template"`
	FaultTolerance bool   `yaml:"faultTolerance"`
	EncryptionKey  string `yaml:"encryptionKey"`
	Annotation     string `yaml:"annotation"`
	Address        string `yaml:"address"`
	// Controllers by number; controller 0 is there always. SharedBus is none, physical or virtual.
	Controllers []Controller `yaml:"controllers"`
	NICs        []NIC        `yaml:"nics"`
	Disks       []DiskSpec   `yaml:"disks"`
}

// Controller is one SCSI controller.
type Controller struct {
	Type      string `yaml:"type"`
	SharedBus string `yaml:"sharedBus"`
}

// NIC is one network card.
type NIC struct {
	Network string `yaml:"network"`
	Type    string `yaml:"type"`
	MAC     string `yaml:"mac"`
	Address string `yaml:"address"`
}

// DiskSpec is one disk of a virtual machine.
type DiskSpec struct {
	Size       Size    `yaml:"size"`
	Content    Content `yaml:"content"`
	Datastore  string  `yaml:"datastore"`
	Controller int     `yaml:"controller"`
	Thick      bool    `yaml:"thick"`
	// Mode is persistent, independent_persistent or independent_nonpersistent.
	Mode string `yaml:"mode"`
	// RDM is virtual or physical: a raw device mapping.
	RDM         string `yaml:"rdm"`
	MultiWriter bool   `yaml:"multiWriter"`
	// EncryptionKey is the key ID of an encrypted disk.
	EncryptionKey string `yaml:"encryptionKey"`
	// Tracked is false for a disk that the host cannot track though the VM can.
	Tracked *bool `yaml:"tracked"`
}

// Generate makes many virtual machines of one pattern, named prefix-1, prefix-2, ...
type Generate struct {
	Prefix string `yaml:"prefix"`
	Count  int    `yaml:"count"`
	// VM is the pattern; hosts and datastores left empty are taken in turn.
	VM VM `yaml:"vm"`
}

// Content is what a disk holds at the start: pieces, written one after another. "empty" has none.
type Content []Piece

// Piece is some bytes of a disk: random ones from a seed, a text, or a file.
type Piece struct {
	// Seed makes the same random bytes each time, in each of Extents.
	Seed    uint64   `yaml:"seed"`
	Extents []Extent `yaml:"extents"`
	// Text is written at At, over and over for Length bytes where that is given.
	Text   string `yaml:"text"`
	Length Size   `yaml:"length"`
	// File is written at At.
	File string `yaml:"file"`
	At   Size   `yaml:"at"`
}

// Extent is a range of a disk.
type Extent struct {
	Offset Size `yaml:"offset"`
	Length Size `yaml:"length"`
}

// UnmarshalYAML reads "empty", one piece, or a list of pieces.
func (c *Content) UnmarshalYAML(node *yaml.Node) error {
	switch node.Kind {
	case yaml.ScalarNode:
		if node.Value != "empty" {
			return fmt.Errorf("line %d: content %q: it is `empty`, a piece ({seed, extents}, {text} or {file}), or a list of pieces", node.Line, node.Value)
		}
		*c = nil
		return nil
	case yaml.SequenceNode:
		var pieces []Piece
		if err := strict(node, &pieces); err != nil {
			return err
		}
		*c = pieces
		return nil
	default:
		var piece Piece
		if err := strict(node, &piece); err != nil {
			return err
		}
		*c = Content{piece}
		return nil
	}
}

// strict decodes a node as the whole file is: a node of its own forgets the decoder's KnownFields.
func strict(node *yaml.Node, into any) error {
	raw, err := yaml.Marshal(node)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	return nil
}

// Size is a number of bytes, written as 512, 64KiB, 10MiB, 2GiB or 1TiB.
type Size int64

// UnmarshalYAML reads a size.
func (s *Size) UnmarshalYAML(node *yaml.Node) error {
	n, err := ParseSize(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	*s = Size(n)
	return nil
}

// ParseSize reads 512, 64KiB, 10MiB, 2GiB or 1TiB.
func ParseSize(text string) (int64, error) {
	unit := int64(1)
	number := strings.TrimSpace(text)
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} {
		if cut, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = strings.TrimSpace(cut), u
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("size %q: write a whole number of bytes, or one with KiB, MiB, GiB or TiB", text)
	}
	return n * unit, nil
}

// Duration is a time, written as 200ms, 30s or 30m.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(node *yaml.Node) error {
	t, err := time.ParseDuration(node.Value)
	if err != nil || t < 0 {
		return fmt.Errorf("line %d: duration %q: write it as 200ms, 30s or 30m", node.Line, node.Value)
	}
	*d = Duration(t)
	return nil
}

// LoadInventory reads and checks an inventory file.
func LoadInventory(path string) (*Inventory, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	inv, err := ParseInventory(raw)
	if err != nil {
		return nil, fmt.Errorf("inventory %s: %w", path, err)
	}
	return inv, nil
}

// ParseInventory reads and checks an inventory.
func ParseInventory(raw []byte) (*Inventory, error) {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	inv := new(Inventory)
	if err := dec.Decode(inv); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty: it needs at least `name` and `datacenters`")
		}
		return nil, fmt.Errorf("%w (see e2e/sandbox/inventory.yaml for the fields there are)", err)
	}
	var more any
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds more than one YAML document: keep one")
	}
	if err := inv.complete(); err != nil {
		return nil, err
	}
	return inv, nil
}
