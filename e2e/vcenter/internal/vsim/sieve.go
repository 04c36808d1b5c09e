package vsim

import (
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// sieve stands between the registry and a client's property collector. For each change of any object govmomi's collector copies all objects of
// all its filters, through XML: with a few dozen machines at work it falls behind, and a wait goes unanswered for minutes. So what no filter of
// the session asks for is left out, and changes of one object that come close together are told as one, as vCenter does.
type sieve struct {
	pc    *simulator.PropertyCollector
	inner *simulator.Session

	mu      sync.Mutex
	changed map[types.ManagedObjectReference]*change
}

type change struct {
	obj mo.Reference
	set []types.PropertyChange
}

// together is how close changes of an object come to be told as one.
const together = 50 * time.Millisecond

// background is what vCenter makes a lot of, and few ask for.
var background = map[string]bool{
	"Task": true, "TaskManager": true, "TaskHistoryCollector": true, "EventManager": true, "EventHistoryCollector": true, "PropertyFilter": true,
}

// inventory is what stays, and changes a little at a time. What changes in a task is told step by step.
var inventory = map[string]bool{"VirtualMachine": true, "HostSystem": true, "Datastore": true}

func (s *sieve) Reference() types.ManagedObjectReference { return s.pc.Reference() }

// asked tells whether a filter of the session names the kind.
func (s *sieve) asked(kind string) bool {
	if !background[kind] {
		return true
	}
	for _, o := range s.inner.Registry.AllReference("PropertyFilter") {
		f, ok := o.(*simulator.PropertyFilter)
		if !ok {
			continue
		}
		for _, set := range f.Spec.PropSet {
			if set.Type == kind || set.Type == "ManagedObject" {
				return true
			}
		}
	}
	return false
}

func (s *sieve) PutObject(ctx *simulator.Context, o mo.Reference) {
	if s.asked(o.Reference().Type) {
		s.pc.PutObject(ctx, o)
	}
}

func (s *sieve) UpdateObject(ctx *simulator.Context, o mo.Reference, set []types.PropertyChange) {
	ref := o.Reference()
	if !s.asked(ref.Type) {
		return
	}
	if !inventory[ref.Type] {
		s.pc.UpdateObject(ctx, o, set)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = map[types.ManagedObjectReference]*change{}
		time.AfterFunc(together, s.tell)
	}
	if s.changed[ref] == nil {
		s.changed[ref] = &change{obj: o}
	}
	s.changed[ref].set = append(s.changed[ref].set, set...)
}

func (s *sieve) RemoveObject(ctx *simulator.Context, ref types.ManagedObjectReference) {
	// Held until it is told: what `tell` has taken up comes before.
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.changed, ref)
	if s.asked(ref.Type) {
		s.pc.RemoveObject(ctx, ref)
	}
}

// tell passes on what has come together. Of a property that changed more than once the last value counts.
func (s *sieve) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := s.changed
	s.changed = nil
	for _, c := range changed {
		last := map[string]int{}
		for i, p := range c.set {
			last[p.Name] = i
		}
		var set []types.PropertyChange
		for i, p := range c.set {
			if last[p.Name] == i {
				set = append(set, p)
			}
		}
		s.pc.UpdateObject(nil, c.obj, set)
	}
}
