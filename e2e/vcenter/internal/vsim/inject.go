package vsim

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
)

// injector holds the faults that tests inject into calls.
type injector struct {
	mu    sync.Mutex
	next  int
	rules []*rule
}

type rule struct {
	control.Fault
	seen int
	hung chan struct{} // closed when the rule is taken away: who waits for its delay goes on
}

func newInjector() *injector { return &injector{} }

// add checks that the fault's type and properties exist.
func (i *injector) add(f control.Fault) (int, error) {
	if f.Fault != "" {
		if _, err := makeFault(f, types.ManagedObjectReference{}); err != nil {
			return 0, err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.next++
	f.ID, f.Hits = i.next, 0
	i.rules = append(i.rules, &rule{Fault: f, hung: make(chan struct{})})
	return f.ID, nil
}

func (i *injector) remove(id int) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := slices.IndexFunc(i.rules, func(r *rule) bool { return r.ID == id })
	if at < 0 {
		return false
	}
	close(i.rules[at].hung)
	i.rules = slices.Delete(i.rules, at, at+1)
	return true
}

func (i *injector) clear() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range i.rules {
		close(r.hung)
	}
	i.rules = nil
}

func (i *injector) list() []control.Fault {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make([]control.Fault, 0, len(i.rules))
	for _, r := range i.rules {
		out = append(out, r.Fault)
	}
	return out
}

// match is the first rule whose turn it is, and counts.
func (i *injector) match(stage control.Stage, method, object string) *rule {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range i.rules {
		if r.On != stage || r.Method != "*" && r.Method != method || r.Object != "" && r.Object != object {
			continue
		}
		r.seen++
		if r.seen <= r.Skip || r.Count > 0 && r.Hits >= r.Count {
			continue
		}
		r.Hits++
		return r
	}
	return nil
}

// wait lets a rule's delay pass.
func (r *rule) wait(v *VC) {
	if r.DelayMs == 0 {
		return
	}
	t := time.NewTimer(time.Duration(r.DelayMs) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.hung:
	case <-v.closing:
	}
}

// call lets what was injected befall a call: it waits, and returns the fault if there is one.
func (i *injector) call(v *VC, method string, this types.ManagedObjectReference) types.BaseMethodFault {
	r := i.match(control.StageCall, method, this.Value)
	if r == nil {
		return nil
	}
	r.wait(v)
	if r.Fault.Fault == "" {
		return nil
	}
	fault, err := makeFault(r.Fault, this)
	if err != nil {
		return invalidState(err.Error())
	}
	return fault
}

// task is what befalls a task: a delay, then perhaps a fault in the place of its work.
func (i *injector) task(v *VC, method string, entity types.ManagedObjectReference) (time.Duration, types.BaseMethodFault) {
	r := i.match(control.StageTask, method, entity.Value)
	if r == nil {
		return 0, nil
	}
	delay := time.Duration(r.DelayMs) * time.Millisecond
	if r.Fault.Fault == "" {
		return delay, nil
	}
	fault, err := makeFault(r.Fault, entity)
	if err != nil {
		return delay, invalidState(err.Error())
	}
	return delay, fault
}

// makeFault makes a fault of the type and with the properties asked for.
func makeFault(f control.Fault, this types.ManagedObjectReference) (types.BaseMethodFault, error) {
	kind, ok := types.TypeFunc()(f.Fault)
	if !ok {
		return nil, control.Invalid("vim25 has no type %q: give a fault such as FileFault or TaskInProgress", f.Fault)
	}
	value := newOf(kind)
	fault, ok := value.(types.BaseMethodFault)
	if !ok {
		return nil, control.Invalid("vim25's %s is no fault: give one such as FileFault or TaskInProgress", f.Fault)
	}
	if len(f.Properties) > 0 {
		raw, err := json.Marshal(f.Properties)
		if err != nil {
			return nil, control.Invalid("properties: %v", err)
		}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(value); err != nil {
			return nil, control.Invalid("properties of %s: %v", f.Fault, err)
		}
	}
	switch x := value.(type) {
	case *types.NoPermission:
		if x.Object == nil {
			x.Object = &this
		}
	case *types.ManagedObjectNotFound:
		if x.Obj.Value == "" {
			x.Obj = this
		}
	}
	if name := unset(reflect.ValueOf(value).Elem(), this); name != "" {
		return nil, control.Invalid("%s needs its %s: give it under properties", f.Fault, name)
	}
	text := f.Message
	if text == "" {
		text = "injected: " + f.Fault
	}
	// vCenter's errors name the operation in its log: another text each time.
	text = fmt.Sprintf("%s (opID=%08x-%d)", text, rand.Uint32(), f.Hits)
	key := ""
	if m := fault.GetMethodFault(); m != nil && len(m.FaultMessage) > 0 {
		if f.Message == "" {
			return fault, nil
		}
		key = m.FaultMessage[0].Key
		m.FaultMessage = nil
	}
	return say(fault, key, text), nil
}

// unset fills in what every client must find in a fault: the references that a call knows. It returns the name of what it cannot know.
func unset(v reflect.Value, this types.ManagedObjectReference) string {
	for i := range v.NumField() {
		f, x := v.Type().Field(i), v.Field(i)
		tag := f.Tag.Get("xml")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && x.Kind() == reflect.Struct:
			if missing := unset(x, this); missing != "" {
				return missing
			}
			continue
		case strings.Contains(options, "omitempty") || !x.IsZero():
			continue
		}
		switch x.Addr().Interface().(type) {
		case *types.ManagedObjectReference:
			ref := this
			if name == "task" {
				ref = types.ManagedObjectReference{Type: "Task", Value: "task-0"}
			}
			if ref.Value == "" {
				ref = types.ManagedObjectReference{Type: "ServiceInstance", Value: "ServiceInstance"} // while the rule is checked
			}
			x.Set(reflect.ValueOf(ref))
		case *types.VirtualMachinePowerState:
			x.SetString(string(types.VirtualMachinePowerStatePoweredOff))
		case *types.LocalizedMethodFault:
			return name
		default:
			if x.Kind() == reflect.String && x.Type() != reflect.TypeFor[string]() {
				return name
			}
		}
	}
	return ""
}

// counters count calls and how they ended.
type counters struct {
	mu sync.Mutex
	by map[string]control.Count
}

func newCounters() *counters { return &counters{by: map[string]control.Count{}} }

func (c *counters) add(name string, fault bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.by[name]
	n.Calls++
	if fault {
		n.Faults++
	}
	c.by[name] = n
}

func (c *counters) list() map[string]control.Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.by)
}

func (c *counters) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by = map[string]control.Count{}
}

// soapCall reads which method a request calls on which object, and leaves the body to be read again.
func soapCall(r *http.Request) (method, object string, err error) {
	if r.Body == nil {
		return "", "", nil
	}
	raw, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 64<<20))
	if err != nil {
		return "", "", err
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	dec := xml.NewDecoder(bytes.NewReader(raw))
	inBody := false
	for {
		token, err := dec.Token()
		if err != nil {
			return method, "", nil // what is no SOAP is refused by who decodes it in full
		}
		switch t := token.(type) {
		case xml.StartElement:
			switch {
			case t.Name.Local == "Body" && !inBody:
				inBody = true
			case inBody && method == "":
				method = t.Name.Local
			case method != "" && t.Name.Local == "_this":
				_ = dec.DecodeElement(&object, &t) // an empty object matches rules for any
				return method, object, nil
			case method != "":
				return method, "", nil
			}
		}
	}
}
