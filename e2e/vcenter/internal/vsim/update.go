package vsim

import (
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// update changes properties of an object and tells those who wait for it. Values are fresh copies: they are encoded without a lock.
//
// govmomi tells a filter on "runtime.powerState" nothing when "runtime" is assigned as a whole; so only what differs is assigned, leaf by
// leaf, as vCenter does.
func (v *VC) update(obj mo.Reference, changes ...types.PropertyChange) {
	ctx := v.ctx()
	ctx.WithLock(obj, func() {
		var leaves []types.PropertyChange
		for _, c := range changes {
			differ(c.Name, fieldAt(reflect.ValueOf(obj), c.Name), reflect.ValueOf(c.Val), 0, &leaves)
		}
		if len(leaves) > 0 {
			ctx.Update(obj, leaves)
		}
	})
}

func set(name string, value any) types.PropertyChange {
	return types.PropertyChange{Name: name, Val: value}
}

// deref follows pointers, not interfaces: what stands behind an interface has no paths that govmomi knows.
func deref(v reflect.Value) reflect.Value {
	for v.IsValid() && v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	return v
}

// fieldAt is the value at a property path, invalid where something on the way is not set.
func fieldAt(v reflect.Value, path string) reflect.Value {
	for name := range strings.SplitSeq(path, ".") {
		v = deref(v)
		if v.IsValid() && v.Kind() == reflect.Interface {
			v = deref(v.Elem())
		}
		if !v.IsValid() {
			return v
		}
		v = v.FieldByName(strings.ToUpper(name[:1]) + name[1:])
	}
	return v
}

const deepest = 3 // config.files.vmPathName, summary.guest.toolsStatus: nobody waits for what lies deeper

// differ lists what makes the old value the new one.
func differ(path string, old, now reflect.Value, depth int, out *[]types.PropertyChange) {
	old, now = deref(old), deref(now)
	plain := func(v reflect.Value) bool {
		return v.IsValid() && v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]() &&
			v.Type() != reflect.TypeFor[types.ManagedObjectReference]()
	}
	switch {
	case !old.IsValid() && !now.IsValid():
		return
	case old.IsValid() && now.IsValid() && old.Type() == now.Type():
		if empty(old) && empty(now) || reflect.DeepEqual(old.Interface(), now.Interface()) {
			return
		}
		if plain(old) && depth < deepest {
			for i := range old.NumField() {
				f := old.Type().Field(i)
				below := path + "." + strings.ToLower(f.Name[:1]) + f.Name[1:]
				if f.Anonymous {
					below = path
				}
				differ(below, old.Field(i), now.Field(i), depth+1, out)
			}
			return
		}
	case plain(old) && depth < deepest && !now.IsValid():
		each(path, old, depth, func(p string, _ reflect.Value) { *out = append(*out, set(p, nil)) })
	}
	if !now.IsValid() {
		*out = append(*out, set(path, nil))
		return
	}
	*out = append(*out, set(path, now.Interface()))
	if plain(now) && !old.IsValid() {
		each(path, now, depth, func(p string, v reflect.Value) { *out = append(*out, set(p, v.Interface())) })
	}
}

// each visits what is set right below a struct.
func each(path string, v reflect.Value, depth int, visit func(string, reflect.Value)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if x := deref(v.Field(i)); !f.Anonymous && depth < deepest && x.IsValid() && !x.IsZero() {
			visit(path+"."+strings.ToLower(f.Name[:1])+f.Name[1:], x)
		}
	}
}

func empty(v reflect.Value) bool { return v.Kind() == reflect.Slice && v.Len() == 0 }
