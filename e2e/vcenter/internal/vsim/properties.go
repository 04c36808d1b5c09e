package vsim

import (
	"reflect"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// collector is the property collector of the caller's session.
func (v *VC) collector(ctx *simulator.Context, ref types.ManagedObjectReference) (*simulator.PropertyCollector, types.BaseMethodFault) {
	var o mo.Reference
	if ctx.Session != nil {
		o = ctx.Session.Get(ref)
	} else {
		o = v.reg.Get(ref)
	}
	if pc, ok := o.(*simulator.PropertyCollector); ok {
		return pc, nil
	}
	return nil, notFound(ref)
}

// visible leaves out what the user may not see: entities without System.View, and other people's sessions.
func (v *VC) visible(ctx *simulator.Context, objects []types.ObjectContent) []types.ObjectContent {
	if ctx.Session == nil || ctx.Session.UserName == "" || v.hasAll(ctx.Session.UserName) {
		return objects
	}
	name := ctx.Session.UserName
	hidden := func(ref types.ManagedObjectReference) bool {
		_, entity := v.reg.Get(ref).(mo.Entity)
		return entity && !v.has(name, ref, "System.View")
	}
	out := objects[:0]
	for _, o := range objects {
		if hidden(o.Obj) {
			continue
		}
		// Lists of entities, such as a view's or a folder's children, leave them out, too.
		for i, p := range o.PropSet {
			if list, ok := p.Val.(types.ArrayOfManagedObjectReference); ok {
				list.ManagedObjectReference = slices.DeleteFunc(slices.Clone(list.ManagedObjectReference), hidden)
				o.PropSet[i].Val = list
			}
		}
		if o.Obj.Type == "SessionManager" && !v.has(ctx.Session.UserName, v.root, "Sessions.TerminateSession") {
			o.PropSet = slices.DeleteFunc(o.PropSet, func(p types.DynamicProperty) bool { return p.Name == "sessionList" })
		}
		out = append(out, o)
	}
	return out
}

// asked refuses a read of one entity that the user may not see.
func (v *VC) asked(ctx *simulator.Context, sets []types.PropertyFilterSpec) types.BaseMethodFault {
	if ctx.Session == nil || ctx.Session.UserName == "" {
		return nil
	}
	for _, set := range sets {
		for _, o := range set.ObjectSet {
			if fault := v.demandView(ctx.Session.UserName, o.Obj); fault != nil && len(o.SelectSet) == 0 {
				return fault
			}
		}
	}
	return nil
}

// stranger is the context of a call without a session: it may read the two objects that need none (see anonymous), of which the session
// manager then has no current session.
func (v *VC) stranger(ctx *simulator.Context) *simulator.Context {
	c := *ctx
	c.Session = &simulator.Session{Registry: simulator.NewRegistry(), Map: v.reg}
	return &c
}

// settled is what every answer with objects goes through: a path that a type does not have is refused, not passed over in missingSet, and
// what the user may not see is left out.
func (v *VC) settled(ctx *simulator.Context, objects []types.ObjectContent) ([]types.ObjectContent, types.BaseMethodFault) {
	for i := range objects {
		for _, missing := range objects[i].MissingSet {
			if f, ok := missing.Fault.Fault.(*types.InvalidProperty); ok {
				return nil, say(&types.InvalidProperty{Name: f.Name}, "", "The property '"+f.Name+"' does not exist")
			}
		}
		if ctx.Session.Key == "" {
			objects[i].PropSet = slices.DeleteFunc(objects[i].PropSet, func(p types.DynamicProperty) bool {
				return p.Name == "currentSession" || p.Name == "sessionList"
			})
		}
	}
	return v.visible(ctx, objects), nil
}

// RetrievePropertiesEx reads properties, of what the user may see.
func (f *front) RetrievePropertiesEx(ctx *simulator.Context, req *types.RetrievePropertiesEx) soap.HasFault {
	if ctx.Session == nil {
		ctx = f.vc.stranger(ctx)
	}
	pc, fault := f.vc.collector(ctx, req.This)
	if fault == nil {
		fault = f.vc.asked(ctx, req.SpecSet)
	}
	if fault != nil {
		return refuse(message(fault), fault)
	}
	res := pc.RetrievePropertiesEx(ctx, req)
	if body, ok := res.(*methods.RetrievePropertiesExBody); ok && body.Res != nil && body.Res.Returnval != nil {
		if body.Res.Returnval.Objects, fault = f.vc.settled(ctx, body.Res.Returnval.Objects); fault != nil {
			return refuse(message(fault), fault)
		}
	}
	return res
}

// RetrieveProperties is the older form.
func (f *front) RetrieveProperties(ctx *simulator.Context, req *types.RetrieveProperties) soap.HasFault {
	if ctx.Session == nil {
		ctx = f.vc.stranger(ctx)
	}
	pc, fault := f.vc.collector(ctx, req.This)
	if fault == nil {
		fault = f.vc.asked(ctx, req.SpecSet)
	}
	if fault != nil {
		return refuse(message(fault), fault)
	}
	res := pc.RetrieveProperties(ctx, req)
	if body, ok := res.(*methods.RetrievePropertiesBody); ok && body.Res != nil {
		if body.Res.Returnval, fault = f.vc.settled(ctx, body.Res.Returnval); fault != nil {
			return refuse(message(fault), fault)
		}
	}
	return res
}

// CreateFilter is refused where reading the same would be: for paths and objects that do not exist, and those the user may not see.
func (f *front) CreateFilter(ctx *simulator.Context, req *types.CreateFilter) soap.HasFault {
	pc, fault := f.vc.collector(ctx, req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	if res := f.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{
		This: req.This, SpecSet: []types.PropertyFilterSpec{req.Spec},
	}); res.Fault() != nil {
		return res
	}
	return pc.CreateFilter(ctx, req)
}

// ContinueRetrievePropertiesEx reads the next page.
func (f *front) ContinueRetrievePropertiesEx(ctx *simulator.Context, req *types.ContinueRetrievePropertiesEx) soap.HasFault {
	pc, fault := f.vc.collector(ctx, req.This)
	if fault != nil {
		return refuse(message(fault), fault)
	}
	res := pc.ContinueRetrievePropertiesEx(ctx, req)
	if body, ok := res.(*methods.ContinueRetrievePropertiesExBody); ok && body.Res != nil {
		body.Res.Returnval.Objects = f.vc.visible(ctx, body.Res.Returnval.Objects)
	}
	return res
}

// FetchResponse answers Fetch, the undocumented call by which pyvmomi reads a property. govmomi has it, too, but in an internal package,
// and answers with another call's response where the property is not set.
type FetchResponse struct {
	Returnval types.AnyType `xml:"returnval,omitempty,typeattr"`
}

type fetchBody struct {
	Res    *FetchResponse `xml:"urn:vim25 FetchResponse,omitempty"`
	Fault_ *soap.Fault    `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

// Fault is the fault.
func (b *fetchBody) Fault() *soap.Fault { return b.Fault_ }

// fetched is the object and the property of a Fetch; its type is govmomi's own, so it is read by reflection.
func fetched(m any) (ref types.ManagedObjectReference, property string) {
	body := reflect.Indirect(reflect.ValueOf(m))
	if body.Kind() != reflect.Struct {
		return ref, ""
	}
	ref, _ = body.FieldByName("This").Interface().(types.ManagedObjectReference)
	property, _ = body.FieldByName("Prop").Interface().(string)
	return ref, property
}

// Fetch reads one property.
func (f *front) Fetch(ctx *simulator.Context, req any) soap.HasFault {
	ref, property := fetched(req)
	res := f.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{
		This: f.vc.content().PropertyCollector,
		SpecSet: []types.PropertyFilterSpec{{
			PropSet:   []types.PropertySpec{{Type: ref.Type, PathSet: []string{property}}},
			ObjectSet: []types.ObjectSpec{{Obj: ref}},
		}},
	})
	if res.Fault() != nil {
		return res
	}
	out := &fetchBody{Res: &FetchResponse{}}
	for _, o := range res.(*methods.RetrievePropertiesExBody).Res.Returnval.Objects {
		for _, p := range o.PropSet {
			out.Res.Returnval = p.Val
		}
		for _, missing := range o.MissingSet {
			return refuse(missing.Fault.LocalizedMessage, missing.Fault.Fault)
		}
	}
	return out
}
