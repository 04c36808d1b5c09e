package control

import (
	"net/http"
	"strconv"

	"hawser.dev/e2e/vcenter/internal/disk"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

// calls are all paths but those that answer bytes.
func (s *server) calls() map[string]call {
	all := map[string]call{
		"GET /v1/vms": func(*http.Request) (any, error) { return list(s.vc.VMs()) },
		"GET /v1/vms/{vm}": func(r *http.Request) (any, error) {
			return s.vc.VM(r.PathValue("vm"))
		},
		"PUT /v1/vms/{vm}/disks/{disk}/bytes":                 s.write,
		"GET /v1/vms/{vm}/disks/{disk}/sha256":                s.sha256(s.current),
		"GET /v1/snapshots/{snapshot}/disks/{disk}/sha256":    s.sha256(s.frozen),
		"GET /v1/snapshots/{snapshot}/disks/{disk}/allocated": s.allocated,
		"DELETE /v1/snapshots/{snapshot}": func(r *http.Request) (any, error) {
			return nil, s.vc.RemoveSnapshot(r.PathValue("snapshot"))
		},
		"DELETE /v1/vms/{vm}": func(r *http.Request) (any, error) {
			return nil, s.vc.Unregister(r.PathValue("vm"))
		},
		"GET /v1/datastores":       func(*http.Request) (any, error) { return list(s.vc.Datastores()) },
		"GET /v1/hosts":            func(*http.Request) (any, error) { return list(s.vc.Hosts()) },
		"GET /v1/sessions":         func(*http.Request) (any, error) { return list(s.vc.Sessions()) },
		"GET /v1/faults":           func(*http.Request) (any, error) { return list(s.vc.Faults()) },
		"DELETE /v1/faults":        func(*http.Request) (any, error) { return nil, s.vc.ClearFaults() },
		"GET /v1/sessions/refused": func(*http.Request) (any, error) { return s.vc.RefusedLogins() },
		"GET /v1/calls":            func(*http.Request) (any, error) { return s.vc.Calls() },
		"DELETE /v1/calls":         func(*http.Request) (any, error) { return nil, s.vc.ResetCalls() },
		"DELETE /v1/vddk/counts":   func(*http.Request) (any, error) { s.vc.VDDK().ResetCounts(); return nil, nil },
		"DELETE /v1/vddk/faults":   func(*http.Request) (any, error) { s.vc.VDDK().ClearAll(); return nil, nil },
		"POST /v1/vddk/drop": func(*http.Request) (any, error) {
			return map[string]int{"dropped": s.vc.VDDK().DropAll()}, nil
		},
	}
	for _, more := range []map[string]call{s.diskCalls(), s.vmCalls(), s.fateCalls()} {
		for pattern, c := range more {
			all[pattern] = c
		}
	}
	return all
}

// list answers [] for nothing, not null.
func list[T any](v []T, err error) (any, error) {
	if v == nil {
		v = []T{}
	}
	return v, err
}

// keyed are the calls on one disk of a VM.
func keyed(f func(r *http.Request, vm string, key int32) (any, error)) call {
	return func(r *http.Request) (any, error) {
		key, err := diskKey(r)
		if err != nil {
			return nil, err
		}
		return f(r, r.PathValue("vm"), key)
	}
}

func (s *server) diskCalls() map[string]call {
	return map[string]call{
		"POST /v1/vms/{vm}/disks": func(r *http.Request) (any, error) {
			var spec NewDisk
			if err := body(r, &spec); err != nil {
				return nil, err
			}
			if spec.Size <= 0 || spec.Size%disk.Sector != 0 {
				return nil, Invalid("size is %d: give a positive multiple of 512", spec.Size)
			}
			return s.vc.AddDisk(r.PathValue("vm"), spec)
		},
		"DELETE /v1/vms/{vm}/disks/{disk}": keyed(func(_ *http.Request, vm string, key int32) (any, error) {
			return nil, s.vc.RemoveDisk(vm, key)
		}),
		"POST /v1/vms/{vm}/disks/{disk}/replace": keyed(func(r *http.Request, vm string, key int32) (any, error) {
			var in struct {
				Size int64 `json:"size"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Size < 0 || in.Size%disk.Sector != 0 {
				return nil, Invalid("size is %d: give a positive multiple of 512, or nothing to keep it", in.Size)
			}
			return s.vc.ReplaceDisk(vm, key, in.Size)
		}),
		"POST /v1/vms/{vm}/disks/{disk}/grow": keyed(func(r *http.Request, vm string, key int32) (any, error) {
			var in struct {
				Capacity int64 `json:"capacity"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Capacity <= 0 {
				return nil, Invalid("capacity is missing: give the new size in bytes")
			}
			return nil, s.vc.GrowDisk(vm, key, in.Capacity)
		}),
	}
}

func (s *server) vmCalls() map[string]call {
	return map[string]call{
		"POST /v1/vms/{vm}/cbt/reset": func(r *http.Request) (any, error) {
			var in struct {
				Disk int32 `json:"disk"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			return nil, s.vc.ResetCBT(r.PathValue("vm"), in.Disk)
		},
		"PUT /v1/vms/{vm}/cbt/quirks": func(r *http.Request) (any, error) {
			var in struct {
				Disk int32 `json:"disk"`
				disk.Quirks
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.ForgetWrite < 0 {
				return nil, Invalid("forgetWrite is %d: every n-th write loses its mark, 0 = none", in.ForgetWrite)
			}
			return nil, s.vc.SetQuirks(r.PathValue("vm"), in.Disk, in.Quirks)
		},
		"PUT /v1/vms/{vm}/cbt/pages": func(r *http.Request) (any, error) {
			var in struct {
				Disk int32 `json:"disk"`
				Span int64 `json:"span"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Span < 0 {
				return nil, Invalid("span is %d: give bytes, 0 = no limit", in.Span)
			}
			return nil, s.vc.SetPageSpan(r.PathValue("vm"), in.Disk, in.Span)
		},
		"POST /v1/vms/{vm}/snapshots": func(r *http.Request) (any, error) {
			var in struct {
				Name        string `json:"name"`
				Description string `json:"description"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Name == "" {
				return nil, Invalid("name is missing: a snapshot has one")
			}
			return s.vc.CreateSnapshot(r.PathValue("vm"), in.Name, in.Description)
		},
		"POST /v1/snapshots/{snapshot}/revert": func(r *http.Request) (any, error) {
			var in struct {
				Hidden bool `json:"hidden"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			return nil, s.vc.Revert(r.PathValue("snapshot"), in.Hidden)
		},
		"PUT /v1/vms/{vm}/consolidation": func(r *http.Request) (any, error) {
			var in struct {
				Tries *int `json:"tries"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Tries == nil || *in.Tries < 0 {
				return nil, Invalid("tries is missing or negative: say how many consolidations fail before one works")
			}
			return nil, s.vc.LeaveConsolidation(r.PathValue("vm"), *in.Tries)
		},
		"POST /v1/vms/{vm}/migrate":  s.text("host", s.vc.Migrate),
		"POST /v1/vms/{vm}/relocate": s.text("datastore", s.vc.Relocate),
		"PUT /v1/vms/{vm}/name":      s.text("name", s.vc.Rename),
		"PUT /v1/vms/{vm}/power": s.text("state", func(vm, state string) error {
			switch p := Power(state); p {
			case PowerOn, PowerOff, Suspended:
				return s.vc.SetPower(vm, p)
			}
			return Invalid("state is %q: it is on, off or suspended", state)
		}),
		"PUT /v1/vms/{vm}/tools": s.text("state", func(vm, state string) error {
			switch t := Tools(state); t {
			case ToolsRunning, ToolsNotRunning, ToolsNotInstalled:
				return s.vc.SetTools(vm, t)
			}
			return Invalid("state is %q: it is running, notRunning or notInstalled", state)
		}),
		"PUT /v1/vms/{vm}/disabledMethods": func(r *http.Request) (any, error) {
			var in struct {
				Methods []string `json:"methods"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			return nil, s.vc.DisableMethods(r.PathValue("vm"), in.Methods)
		},
	}
}

// text is a call on a VM whose body has one field.
func (s *server) text(field string, f func(vm, value string) error) call {
	return func(r *http.Request) (any, error) {
		in := map[string]string{}
		if err := body(r, &in); err != nil {
			return nil, err
		}
		value := in[field]
		if len(in) != 1 || value == "" {
			return nil, Invalid("the body of %s is {%q: \"...\"}", r.URL.Path, field)
		}
		return nil, f(r.PathValue("vm"), value)
	}
}

func (s *server) fateCalls() map[string]call {
	return map[string]call{
		"PATCH /v1/datastores/{name}": func(r *http.Request) (any, error) {
			var in struct {
				Capacity *int64 `json:"capacity"`
				Free     *int64 `json:"free"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Capacity == nil && in.Free == nil || in.Capacity != nil && *in.Capacity < 0 || in.Free != nil && *in.Free < 0 {
				return nil, Invalid("give capacity, free, or both, in bytes and not negative")
			}
			return nil, s.vc.SetDatastore(r.PathValue("name"), in.Capacity, in.Free)
		},
		"PATCH /v1/hosts/{name}": func(r *http.Request) (any, error) {
			var in struct {
				Maintenance *bool       `json:"maintenance"`
				Connection  *Connection `json:"connection"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Maintenance == nil && in.Connection == nil {
				return nil, Invalid("give maintenance, connection, or both")
			}
			if c := in.Connection; c != nil && *c != Connected && *c != Disconnected && *c != NotResponding {
				return nil, Invalid("connection is %q: it is connected, disconnected or notResponding", *c)
			}
			return nil, s.vc.SetHost(r.PathValue("name"), in.Maintenance, in.Connection)
		},
		"DELETE /v1/sessions": func(r *http.Request) (any, error) {
			if err := queries(r, "user"); err != nil {
				return nil, err
			}
			n, err := s.vc.ExpireSessions(r.URL.Query().Get("user"))
			return map[string]int{"ended": n}, err
		},
		"PUT /v1/sessions/limit": func(r *http.Request) (any, error) {
			var in struct {
				Max *int `json:"max"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Max == nil || *in.Max < 0 {
				return nil, Invalid("max is missing or negative: give how many sessions there may be, 0 = as the inventory says")
			}
			return nil, s.vc.LimitSessions(*in.Max)
		},
		"PATCH /v1/users/{user}": func(r *http.Request) (any, error) {
			var in struct {
				Password *string  `json:"password"`
				Grant    []string `json:"grant"`
				Revoke   []string `json:"revoke"`
			}
			if err := body(r, &in); err != nil {
				return nil, err
			}
			if in.Password == nil && len(in.Grant) == 0 && len(in.Revoke) == 0 {
				return nil, Invalid("give password, grant, revoke, or several of them")
			}
			return nil, s.vc.EditUser(r.PathValue("user"), in.Password, in.Grant, in.Revoke)
		},
		"POST /v1/faults": func(r *http.Request) (any, error) {
			var f Fault
			if err := body(r, &f); err != nil {
				return nil, err
			}
			if f.ID != 0 || f.Hits != 0 {
				return nil, Invalid("id and hits are answered, not given")
			}
			if err := f.Check(); err != nil {
				return nil, err
			}
			id, err := s.vc.AddFault(f)
			return map[string]int{"id": id}, err
		},
		"DELETE /v1/faults/{id}": func(r *http.Request) (any, error) {
			id, err := faultID(r)
			if err != nil {
				return nil, err
			}
			return nil, s.vc.RemoveFault(id)
		},
		"GET /v1/vddk": func(*http.Request) (any, error) {
			f := s.vc.VDDK()
			return vddkState{f.OpenDisks(), f.Connections(), f.BytesRead(), f.Counts()}, nil
		},
		"POST /v1/vddk/faults": func(r *http.Request) (any, error) {
			var f vddk.Fault
			if err := body(r, &f); err != nil {
				return nil, err
			}
			id, err := s.vc.VDDK().Set(f)
			if err != nil {
				return nil, Invalid("%v", err)
			}
			return map[string]int{"id": id}, nil
		},
		"DELETE /v1/vddk/faults/{id}": func(r *http.Request) (any, error) {
			id, err := faultID(r)
			if err != nil {
				return nil, err
			}
			if !s.vc.VDDK().Clear(id) {
				return nil, NotFound("there is no fault %d in the data path", id)
			}
			return nil, nil
		},
		"POST /v1/reset": func(*http.Request) (any, error) {
			s.vc.VDDK().ClearAll()
			s.vc.VDDK().ResetCounts()
			return nil, s.vc.Reset()
		},
	}
}

func faultID(r *http.Request) (int, error) {
	n, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return 0, Invalid("%q is no fault's id: give the number that its injection answered", r.PathValue("id"))
	}
	return n, nil
}
