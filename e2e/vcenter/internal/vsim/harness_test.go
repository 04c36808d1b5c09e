package vsim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	vtask "github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"hawser.dev/e2e/vcenter/internal/control"
	"hawser.dev/e2e/vcenter/internal/disk"
)

const testInventory = `
name: test
settings: {maxSnapshotDepth: 4, vddkDisks: 3, vddkDisksPerHost: 2}
datacenters:
  - name: DC1
    clusters:
      - name: C1
        hosts: [{name: esx-1}, {name: esx-2}]
    datastores: [{name: ds-1, capacity: 1GiB}, {name: ds-2, capacity: 1GiB}, {name: nfs-1, type: NFS, capacity: 1GiB}]
users:
  - name: worker@vsphere.local
    permissions:
      - entity: /
        privileges: [VirtualMachine.State.CreateSnapshot, VirtualMachine.State.RemoveSnapshot, VirtualMachine.Config.ChangeTracking,
          VirtualMachine.Config.DiskLease, VirtualMachine.Provisioning.DiskRandomRead, VirtualMachine.Provisioning.DiskRandomAccess,
          VirtualMachine.Interact.PowerOff, Datastore.Browse]
  - {name: reader@vsphere.local, permissions: [{entity: /, role: ReadOnly}]}
  - {name: prod@vsphere.local, permissions: [{entity: /DC1/vm/prod, role: Admin}]}
  - {name: nobody@vsphere.local}
vms:
  - name: web
    folder: prod
    host: esx-1
    datastore: ds-1
    cbt: true
    nics: [{address: 192.0.2.1}]
    disks:
      - {size: 16MiB, content: {seed: 1, extents: [{offset: 0, length: 1MiB}]}}
      - {size: 8MiB}
  - {name: plain, host: esx-1, datastore: ds-1, tools: notInstalled, disks: [{size: 8MiB}]}
  - {name: cold, host: esx-2, datastore: ds-2, power: "off", cbt: true, disks: [{size: 8MiB}]}
  - {name: nas, host: esx-2, datastore: nfs-1, cbt: true, disks: [{size: 8MiB}]}
  - {name: ft, host: esx-1, datastore: ds-1, faultTolerance: true, disks: [{size: 8MiB}]}
  - {name: ancient, host: esx-1, datastore: ds-1, hardware: 4, disks: [{size: 8MiB}]}
  - name: odd
    host: esx-1
    datastore: ds-1
    cbt: true
    disks: [{size: 8MiB}, {size: 8MiB, mode: independent_persistent}, {size: 8MiB, rdm: physical}, {size: 8MiB, rdm: virtual}]
  - {name: shared, host: esx-1, datastore: ds-1, controllers: [{sharedBus: physical}], disks: [{size: 8MiB}]}
  - {name: multi, host: esx-1, datastore: ds-1, disks: [{size: 8MiB, multiWriter: true}]}
  - {name: tmpl, host: esx-1, datastore: ds-1, template: true, disks: [{size: 8MiB}]}
  - {name: crypt, host: esx-1, datastore: ds-1, encryptionKey: k1, disks: [{size: 8MiB, encryptionKey: k1}]}
`

// bed is a simulator with a client of its own.
type bed struct {
	*testing.T
	vc  *VC
	url *url.URL
	c   *govmomi.Client
	ctx context.Context
	ctl control.VCenter
}

func start(t *testing.T, change ...func(*Inventory)) *bed {
	t.Helper()
	inv, err := ParseInventory([]byte(testInventory))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(inv)
	}
	return startInventory(t, inv)
}

func startInventory(t *testing.T, inv *Inventory) *bed {
	t.Helper()
	vc, err := New(inv, Options{State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(vc.Handler())
	u, err := url.Parse(srv.URL + "/sdk")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b := &bed{T: t, vc: vc, url: u, ctx: ctx, ctl: vc.Control()}
	t.Cleanup(func() {
		cancel()
		srv.CloseClientConnections()
		vc.Close()
		srv.Close()
	})
	b.c = b.login(Administrator)
	return b
}

func (b *bed) dial(user, password string) (*govmomi.Client, error) {
	u := *b.url
	u.User = url.UserPassword(user, password)
	return govmomi.NewClient(b.ctx, &u, true)
}

func (b *bed) login(user string) *govmomi.Client {
	b.Helper()
	c, err := b.dial(user, "sandbox")
	b.must(err)
	return c
}

// as is the same bed seen by another user.
func (b *bed) as(user string) *bed {
	x := *b
	x.c = b.login(user)
	return &x
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bed) vm(name string) *object.VirtualMachine {
	b.Helper()
	m := b.vc.find(name)
	if m == nil {
		b.Fatalf("no vm %s", name)
	}
	return object.NewVirtualMachine(b.c.Client, m.ref)
}

func (b *bed) wait(t *object.Task, err error) (*types.TaskInfo, error) {
	if err != nil {
		return nil, err
	}
	return t.WaitForResult(b.ctx)
}

func (b *bed) ok(t *object.Task, err error) *types.TaskInfo {
	b.Helper()
	info, err := b.wait(t, err)
	b.must(err)
	return info
}

// snap takes a snapshot and returns it with its configuration.
func (b *bed) snap(vm string) snap {
	b.Helper()
	info := b.ok(b.vm(vm).CreateSnapshot(b.ctx, "s", "", false, false))
	return b.read(info.Result.(types.ManagedObjectReference))
}

type snap struct {
	ref   types.ManagedObjectReference
	disks []*types.VirtualDisk
}

func (b *bed) read(ref types.ManagedObjectReference) snap {
	b.Helper()
	var o mo.VirtualMachineSnapshot
	b.must(property.DefaultCollector(b.c.Client).RetrieveOne(b.ctx, ref, []string{"config"}, &o))
	return snap{ref, disksOf(o.Config.Hardware.Device)}
}

func disksOf(list []types.BaseVirtualDevice) []*types.VirtualDisk {
	var out []*types.VirtualDisk
	for _, d := range object.VirtualDeviceList(list).SelectByType((*types.VirtualDisk)(nil)) {
		out = append(out, d.(*types.VirtualDisk))
	}
	return out
}

func flat(d *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	return d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

func (b *bed) props(vm string) mo.VirtualMachine {
	b.Helper()
	var o mo.VirtualMachine
	b.must(b.vm(vm).Properties(b.ctx, b.vm(vm).Reference(), nil, &o))
	return o
}

func (b *bed) remove(s snap) (*types.TaskInfo, error) {
	res, err := methods.RemoveSnapshot_Task(b.ctx, b.c.Client, &types.RemoveSnapshot_Task{This: s.ref, Consolidate: types.NewBool(true)})
	if err != nil {
		return nil, err
	}
	return object.NewTask(b.c.Client, res.Returnval).WaitForResult(b.ctx)
}

func (b *bed) consolidate(vm string) error {
	res, err := methods.ConsolidateVMDisks_Task(b.ctx, b.c.Client, &types.ConsolidateVMDisks_Task{This: b.vm(vm).Reference()})
	if err != nil {
		return err
	}
	_, err = object.NewTask(b.c.Client, res.Returnval).WaitForResult(b.ctx)
	return err
}

func (b *bed) query(vm string, s *types.ManagedObjectReference, key int32, start int64, id string) (types.DiskChangeInfo, error) {
	res, err := methods.QueryChangedDiskAreas(b.ctx, b.c.Client, &types.QueryChangedDiskAreas{
		This: b.vm(vm).Reference(), Snapshot: s, DeviceKey: key, StartOffset: start, ChangeId: id,
	})
	if err != nil {
		return types.DiskChangeInfo{}, err
	}
	return res.Returnval, nil
}

func (b *bed) write(vm string, key int32, at int64, n int) []byte {
	b.Helper()
	p := bytes.Repeat([]byte{byte(at/65536) + 1, byte(n)}, n/2)
	b.must(b.ctl.GuestWrite(vm, key, p, at))
	return p
}

// faultOf is the vSphere fault in an error, of a call or of a task.
func faultOf(err error) any {
	switch {
	case err == nil:
		return nil
	case soap.IsSoapFault(err):
		return soap.ToSoapFault(err).VimFault()
	}
	var te vtask.Error
	if errors.As(err, &te) {
		return te.Fault()
	}
	return err
}

// refused checks that an error is a fault of type F.
func refused[F any](b *bed, err error) F {
	b.Helper()
	switch f := faultOf(err).(type) {
	case F:
		return f
	case *F:
		return *f
	default:
		var want F
		b.Fatalf("got %T %v, want fault %T", f, err, want)
		return want
	}
}

func equal[T comparable](b *bed, got, want T) {
	b.Helper()
	if got != want {
		b.Fatalf("got %v, want %v", got, want)
	}
}

func (b *bed) get(path string, client *http.Client, header map[string]string) (int, string, http.Header) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, strings.TrimSuffix(b.url.String(), "/sdk")+path, nil)
	b.must(err)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := client.Do(req)
	b.must(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	b.must(err)
	return res.StatusCode, string(body), res.Header
}

// setTaskTime changes how long tasks of a method ("": all others) take.
func (v *VC) setTaskTime(method string, d time.Duration) { v.timing.set(method, d) }

func readAll(b *bed, r disk.Reader) []byte {
	b.Helper()
	p := make([]byte, r.Size())
	if _, err := r.ReadAt(p, 0); err != nil && err != io.EOF {
		b.Fatal(err)
	}
	return p
}
