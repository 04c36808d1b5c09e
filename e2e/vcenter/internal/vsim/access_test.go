package vsim

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

func TestFolderNeedsLoginPrivilegeAndALockThatIsFree(t *testing.T) {
	b := start(t)
	bare := &http.Client{Transport: b.c.Client.Client.Client.Transport}
	cookie := func(x *bed) map[string]string {
		for _, c := range x.c.Client.Client.Client.Jar.Cookies(x.url) {
			if c.Name == soap.SessionCookieName {
				return map[string]string{"Cookie": c.Name + `="` + c.Value + `"`}
			}
		}
		t.Fatal("no cookie")
		return nil
	}
	file := func(name, query string) string { return "/folder/" + name + "?" + query }
	const at1, at2 = "dcPath=DC1&dsName=ds-1", "dcPath=DC1&dsName=ds-2"
	status := func(path string, header map[string]string) int {
		code, _, _ := b.get(path, bare, header)
		return code
	}
	me := cookie(b)
	equal(b, status(file("cold/cold-flat.vmdk", at2), nil), 401)
	equal(b, status(file("cold/cold-flat.vmdk", at2), map[string]string{"Cookie": soap.SessionCookieName + "=forged"}), 401)
	equal(b, status(file("cold/cold-flat.vmdk", at2), cookie(b.as("reader@vsphere.local"))), 403)
	equal(b, status(file("cold/cold-flat.vmdk", "dcPath=DC1&dsName=nothing"), me), 404)
	equal(b, status(file("cold/nothing.vmdk", at2), me), 404)
	equal(b, status(file("../../etc/passwd", at2), me), 404)
	equal(b, status(file("web/web-flat.vmdk", at1), me), 500) // of a running machine
	code, body, header := b.get(file("cold/cold-flat.vmdk", at2), bare, map[string]string{"Cookie": me["Cookie"], "Range": "bytes=512-1023"})
	if code != 206 || len(body) != 512 || header.Get("Content-Range") != "bytes 512-1023/8388608" {
		t.Fatalf("%d, %d bytes, %s", code, len(body), header.Get("Content-Range"))
	}
	code, body, _ = b.get(file("cold/cold.vmdk", "dcPath=DC1&dsName=ds%252D2"), bare, me)
	if code != 200 || !strings.Contains(body, "cold-flat.vmdk") {
		t.Fatalf("%d %s", code, body)
	}
	req, err := http.NewRequestWithContext(b.ctx, http.MethodPut, strings.TrimSuffix(b.url.String(), "/sdk")+file("cold/x", at2), strings.NewReader("x"))
	b.must(err)
	req.Header.Set("Cookie", me["Cookie"])
	res, err := bare.Do(req)
	b.must(err)
	res.Body.Close()
	equal(b, res.StatusCode, 405)
	b.must(b.c.Logout(b.ctx))
	equal(b, status(file("cold/cold.vmdk", at2), me), 401)
}

func (b *bed) connect(user, password, vm, snapshot string) (vddk.Conn, error) {
	return (&backend{b.vc}).Connect(context.Background(), vddk.Credentials{User: user, Password: password, VM: vm, Snapshot: snapshot})
}

func TestWhoTheDataPathTurnsAway(t *testing.T) {
	b := start(t)
	s := b.snap("web")
	vm := b.vm("web").Reference().Value
	const worker = "worker@vsphere.local"
	for _, c := range []struct {
		user, password, vm, snapshot string
		want                         vddk.Error
	}{
		{worker, "wrong", vm, s.ref.Value, vddk.ErrPermissions},
		{"stranger", "sandbox", vm, s.ref.Value, vddk.ErrPermissions},
		{"reader@vsphere.local", "sandbox", vm, s.ref.Value, vddk.ErrPermissions},
		{worker, "sandbox", "vm-999", s.ref.Value, vddk.ErrVMNotFound},
		{"nobody@vsphere.local", "sandbox", vm, s.ref.Value, vddk.ErrVMNotFound},
		{worker, "sandbox", vm, "snapshot-999", vddk.ErrSnapshotNotFound},
		{worker, "sandbox", b.vm("plain").Reference().Value, s.ref.Value, vddk.ErrSnapshotNotFound},
	} {
		if _, err := b.connect(c.user, c.password, c.vm, c.snapshot); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
	b.must(b.ctl.LimitSessions(1))
	if _, err := b.connect(worker, "sandbox", vm, s.ref.Value); !errors.Is(err, vddk.ErrCannotConnect) {
		t.Errorf("at the limit of sessions: %v", err)
	}
	b.must(b.ctl.LimitSessions(0))
	c, err := b.connect(worker, "sandbox", vm, s.ref.Value)
	b.must(err)
	name := flat(s.disks[0]).FileName
	for path, want := range map[string]vddk.Error{
		"[ds-1] web/web-000001.vmdk": vddk.ErrFileNotFound, // the running layer is not the snapshot's
		"[ds-2] web/web.vmdk":        vddk.ErrFileNotFound,
		"web.vmdk":                   vddk.ErrFileNotFound,
		"":                           vddk.ErrFileNotFound,
	} {
		if _, err := c.Open(path, vddk.OpenReadOnly); !errors.Is(err, want) {
			t.Errorf("open %q: %v", path, err)
		}
	}
	if _, err := c.Open(name, 0); !errors.Is(err, vddk.ErrReadOnly) {
		t.Errorf("open to write: %v", err)
	}
	d, err := c.Open(name, vddk.OpenReadOnly)
	b.must(err)
	if _, err := c.Open(name, vddk.OpenReadOnly); !errors.Is(err, vddk.ErrAlreadyLocked) {
		t.Errorf("opened twice: %v", err)
	}
	equal(b, d.Capacity(), int64(16<<20))
	frozen, err := b.ctl.SnapshotDisk(s.ref.Value, 2000)
	b.must(err)
	want := readAll(b, frozen)
	b.write("web", 2000, 0, 1<<20) // the guest goes on
	got := make([]byte, len(want))
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("not the frozen bytes: %v", err)
	}
	list, err := d.Allocated(0, d.Capacity())
	b.must(err)
	equal(b, len(list), 1)
	// Independent disks and encrypted ones.
	odd := b.snap("odd")
	o, err := b.connect(Administrator, "sandbox", b.vm("odd").Reference().Value, odd.ref.Value)
	b.must(err)
	if _, err := o.Open("[ds-1] odd/odd_1.vmdk", vddk.OpenReadOnly); !errors.Is(err, vddk.ErrFail) {
		t.Errorf("an independent disk: %v", err)
	}
	crypt := b.snap("crypt")
	e, err := b.connect(Administrator, "sandbox", b.vm("crypt").Reference().Value, crypt.ref.Value)
	b.must(err)
	if _, err := e.Open(flat(crypt.disks[0]).FileName, vddk.OpenReadOnly); !errors.Is(err, vddk.ErrPermissions) {
		t.Errorf("an encrypted disk: %v", err)
	}
	// Without a snapshot a running machine's disk is in use; one that is off can be read.
	r, err := b.connect(Administrator, "sandbox", vm, "")
	b.must(err)
	if _, err := r.Open("[ds-1] web/web-000001.vmdk", vddk.OpenReadOnly); !errors.Is(err, vddk.ErrFileAccess) {
		t.Errorf("a disk in use: %v", err)
	}
	cold, err := b.connect(Administrator, "sandbox", b.vm("cold").Reference().Value, "")
	b.must(err)
	cd, err := cold.Open("[ds-2] cold/cold.vmdk", vddk.OpenReadOnly)
	b.must(err)
	b.must(cd.Close())
	// A snapshot that went meanwhile.
	_, err = b.remove(s)
	b.must(err)
	b.must(d.Close())
	if _, err := c.Open(name, vddk.OpenReadOnly); !errors.Is(err, vddk.ErrSnapshotNotFound) {
		t.Errorf("a snapshot that is gone: %v", err)
	}
}

func TestBudgetsOfOpenDisks(t *testing.T) {
	b := start(t) // 2 on a host, 3 in all
	open := func(vm string, key int) (vddk.Disk, error) {
		s := b.snap(vm)
		c, err := b.connect(Administrator, "sandbox", b.vm(vm).Reference().Value, s.ref.Value)
		b.must(err)
		return c.Open(s.disks[key].Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName, vddk.OpenReadOnly)
	}
	first, err := open("web", 0)
	b.must(err)
	_, err = open("odd", 0)
	b.must(err)
	if _, err := open("plain", 0); !errors.Is(err, vddk.ErrRefused) {
		t.Fatalf("a third on the host: %v", err)
	}
	_, err = open("nas", 0) // another host
	b.must(err)
	if _, err := open("cold", 0); !errors.Is(err, vddk.ErrRefused) {
		t.Fatalf("a fourth in all: %v", err)
	}
	hosts, err := b.ctl.Hosts()
	b.must(err)
	equal(b, hosts[0].OpenDisks, 2)
	b.must(first.Close())
	_, err = open("plain", 0)
	b.must(err)
}

func TestMovesAndLostHostsCutReaders(t *testing.T) {
	b := start(t)
	open := func() vddk.Disk {
		s := b.snap("web")
		c, err := b.connect(Administrator, "sandbox", b.vm("web").Reference().Value, s.ref.Value)
		b.must(err)
		d, err := c.Open(flat(s.disks[0]).FileName, vddk.OpenReadOnly)
		b.must(err)
		return d
	}
	lost := func(d vddk.Disk) {
		t.Helper()
		if _, err := d.ReadAt(make([]byte, 512), 0); !errors.Is(err, vddk.ErrConnectionLost) {
			t.Errorf("still reads: %v", err)
		}
		if _, err := d.Allocated(0, 512); !errors.Is(err, vddk.ErrConnectionLost) {
			t.Errorf("still answers: %v", err)
		}
		b.must(d.Close())
	}
	d := open()
	b.must(b.ctl.Migrate("web", "esx-2"))
	lost(d)
	b.ok(b.vm("web").RemoveAllSnapshot(b.ctx, nil))
	d = open()
	b.must(b.ctl.Relocate("web", "ds-2"))
	lost(d)
	d = open()
	down := control.NotResponding
	b.must(b.ctl.SetHost("esx-2", nil, &down))
	lost(d)
}

func TestPrepareForAccessHoldsTheMachine(t *testing.T) {
	b := start(t)
	be := &backend{b.vc}
	vm := b.vm("web").Reference().Value
	worker := vddk.Credentials{User: "worker@vsphere.local", Password: "sandbox", VM: vm}
	admin := vddk.Credentials{User: Administrator, Password: "sandbox", VM: vm}
	if err := be.PrepareForAccess(b.ctx, worker, "x"); !errors.Is(err, vddk.ErrNoLicense) {
		t.Errorf("without the global privileges: %v", err)
	}
	b.must(be.PrepareForAccess(b.ctx, admin, "hawser"))
	if err := be.PrepareForAccess(b.ctx, admin, "hawser"); !errors.Is(err, vddk.ErrFail) {
		t.Errorf("twice: %v", err)
	}
	_, err := b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Host: &b.vc.hosts["esx-2"].ref}, "")
	equal(b, refused[types.MethodDisabled](b, err).Source, "hawser")
	if err := be.EndAccess(b.ctx, admin, "somebody else"); !errors.Is(err, vddk.ErrInvalidArg) {
		t.Errorf("by another: %v", err)
	}
	b.must(be.EndAccess(b.ctx, admin, "hawser"))
	b.ok(b.vm("web").Relocate(b.ctx, types.VirtualMachineRelocateSpec{Host: &b.vc.hosts["esx-2"].ref}, ""))
}
