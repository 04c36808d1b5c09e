package vddk_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"hawser.dev/e2e/vcenter/internal/vddk"
	"hawser.dev/e2e/vcenter/internal/vddk/vddktest"
)

const (
	disk = "[datastore1] web/web.vmdk"
	tail = "[datastore1] web/web_1.vmdk"
	size = 8 << 20
)

type fixture struct {
	backend *vddktest.Backend
	faults  *vddk.Faults
	server  *httptest.Server
	disk    *vddktest.Disk
}

func start(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{backend: vddktest.New(2), faults: &vddk.Faults{}}
	f.disk = f.backend.Add(disk, size, 1)
	f.backend.Add(tail, 5*vddktest.Grain+3*vddk.Sector, 2)
	mux := http.NewServeMux()
	mux.Handle("/vddk", vddk.Handler(f.backend, f.faults))
	f.server = httptest.NewTLSServer(mux)
	t.Cleanup(func() {
		f.faults.ClearAll()
		f.faults.DropAll()
		f.server.Close()
		eventually(t, "everything is closed", func() bool {
			return f.faults.Connections() == 0 && len(f.faults.OpenDisks()) == 0 && f.backend.Logins() == 0
		})
	})
	return f
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s", what)
		}
	}
}

// client speaks the protocol as the library does.
type client struct {
	t *testing.T
	net.Conn
	r  *bufio.Reader
	id uint64
}

func (f *fixture) dial(t *testing.T) *client {
	t.Helper()
	c, err := tls.Dial("tcp", f.server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET /vddk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+vddk.Protocol+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v %v", resp, err)
	}
	return &client{t: t, Conn: c, r: r}
}

func str(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func (c *client) send(op uint16, body ...[]byte) uint64 {
	c.t.Helper()
	b := bytes.Join(body, nil)
	c.id++
	h := binary.BigEndian.AppendUint16(u32(uint32(len(b))), op)
	h = append(binary.BigEndian.AppendUint16(h, 0), u64(c.id)...)
	if _, err := c.Write(append(h, b...)); err != nil {
		c.t.Fatal(err)
	}
	return c.id
}

type answer struct {
	id   uint64
	err  vddk.Error
	body []byte
}

func (c *client) receive() (answer, error) {
	var h [24]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return answer{}, err
	}
	a := answer{id: binary.BigEndian.Uint64(h[8:]), err: vddk.Error(binary.BigEndian.Uint64(h[16:]))}
	a.body = make([]byte, binary.BigEndian.Uint32(h[:]))
	_, err := io.ReadFull(c.r, a.body)
	return a, err
}

func (c *client) call(op uint16, body ...[]byte) answer {
	c.t.Helper()
	id := c.send(op, body...)
	a, err := c.receive()
	if err != nil || a.id != id {
		c.t.Fatalf("operation %d: answer %d to %d: %v", op, a.id, id, err)
	}
	return a
}

func (c *client) login(user, password, vm, snapshot string) vddk.Error {
	c.t.Helper()
	return c.call(1, str(user), str(password), str(vm), str(snapshot), []byte{1}).err
}

func (f *fixture) loggedIn(t *testing.T) *client {
	t.Helper()
	c := f.dial(t)
	if e := c.login(vddktest.User, vddktest.Password, vddktest.VM, vddktest.Snapshot); e != 0 {
		t.Fatal(e)
	}
	return c
}

func (c *client) open(path string, flags uint32) (uint32, vddk.Error) {
	c.t.Helper()
	a := c.call(2, u32(flags), str(path))
	if a.err != 0 {
		return 0, a.err
	}
	return binary.BigEndian.Uint32(a.body), 0
}

func (c *client) mustOpen(path string) uint32 {
	c.t.Helper()
	d, e := c.open(path, vddk.OpenReadOnly)
	if e != 0 {
		c.t.Fatal(e)
	}
	return d
}

func (c *client) read(d uint32, sector uint64, sectors uint32) answer {
	c.t.Helper()
	return c.call(3, u32(d), u64(sector), u32(sectors))
}

func TestOnlyTheProtocolOverTLSIsServed(t *testing.T) {
	f := start(t)
	resp, err := f.server.Client().Get(f.server.URL + "/vddk")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired || resp.Header.Get("Upgrade") != vddk.Protocol {
		t.Errorf("without Upgrade: %v", resp.Status)
	}
	plain := httptest.NewServer(vddk.Handler(f.backend, nil))
	defer plain.Close()
	req, _ := http.NewRequest(http.MethodGet, plain.URL, nil)
	req.Header.Set("Upgrade", vddk.Protocol)
	req.Header.Set("Connection", "Upgrade")
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %v", resp.Status)
	}
}

func TestLoginIsChecked(t *testing.T) {
	f := start(t)
	for _, c := range []struct {
		name, user, password, vm, snapshot string
		want                               vddk.Error
	}{
		{"user", "nobody", vddktest.Password, vddktest.VM, vddktest.Snapshot, vddk.ErrPermissions},
		{"password", vddktest.User, "", vddktest.VM, vddktest.Snapshot, vddk.ErrPermissions},
		{"vm", vddktest.User, vddktest.Password, "vm-1", vddktest.Snapshot, vddk.ErrVMNotFound},
		{"snapshot", vddktest.User, vddktest.Password, vddktest.VM, "snapshot-1", vddk.ErrSnapshotNotFound},
	} {
		cl := f.dial(t)
		if e := cl.login(c.user, c.password, c.vm, c.snapshot); e != c.want {
			t.Errorf("%s: %v, not %v", c.name, e, c.want)
		}
		if e := cl.login(vddktest.User, vddktest.Password, vddktest.VM, vddktest.Snapshot); e != 0 {
			t.Errorf("after a refusal the right one: %v", e)
		}
		if e := cl.login(vddktest.User, vddktest.Password, vddktest.VM, vddktest.Snapshot); e != vddk.ErrInvalidArg {
			t.Errorf("a second login: %v", e)
		}
	}
}

func TestOpenIsRefused(t *testing.T) {
	f := start(t)
	c := f.loggedIn(t)
	if _, e := c.open("[datastore1] web/other.vmdk", vddk.OpenReadOnly); e != vddk.ErrFileNotFound {
		t.Errorf("wrong path: %v", e)
	}
	if _, e := c.open(disk, 0); e != vddk.ErrReadOnly {
		t.Errorf("for writing: %v", e)
	}
	d := c.mustOpen(disk)
	if _, e := f.loggedIn(t).open(disk, vddk.OpenReadOnly); e != vddk.ErrAlreadyLocked {
		t.Errorf("twice: %v", e)
	}
	if got := f.faults.OpenDisks(); len(got) != 1 || got[0].Path != disk || got[0].VM != vddktest.VM || got[0].User != vddktest.User {
		t.Errorf("open disks: %+v", got)
	}
	if a := c.call(5, u32(d)); a.err != 0 {
		t.Errorf("close: %v", a.err)
	}
	if a := c.call(5, u32(d)); a.err != vddk.ErrInvalidArg {
		t.Errorf("close again: %v", a.err)
	}
	if a := c.read(d, 0, 1); a.err != vddk.ErrInvalidArg {
		t.Errorf("read a closed disk: %v", a.err)
	}
	d = c.mustOpen(disk)
	if e := f.dial(t).login(vddktest.User, vddktest.Password, vddktest.VM, ""); e != 0 {
		t.Errorf("login without a snapshot: %v", e)
	}
	_ = c.call(5, u32(d))
	without := f.dial(t)
	_ = without.login(vddktest.User, vddktest.Password, vddktest.VM, "")
	if _, e := without.open(disk, vddk.OpenReadOnly); e != vddk.ErrFileAccess {
		t.Errorf("without a snapshot: %v", e)
	}
}

func TestNothingIsServedBeforeLogin(t *testing.T) {
	f := start(t)
	c := f.dial(t)
	c.send(2, u32(vddk.OpenReadOnly), str(disk))
	if a, err := c.receive(); err == nil {
		t.Errorf("open before login: %+v", a)
	}
}

func TestReads(t *testing.T) {
	f := start(t)
	c := f.loggedIn(t)
	d := c.mustOpen(disk)
	total := uint64(size / vddk.Sector)
	for _, r := range []struct {
		sector  uint64
		sectors uint32
		want    vddk.Error
	}{
		{0, 0, vddk.ErrInvalidArg},
		{0, vddk.MaxRead/vddk.Sector + 1, vddk.ErrOutOfMemory},
		{0, 1<<32 - 1, vddk.ErrOutOfMemory},
		{total, 1, vddk.ErrDiskOutOfRange},
		{total - 1, 2, vddk.ErrDiskOutOfRange},
		{1<<64 - 1, 2, vddk.ErrDiskOutOfRange},
		{total - 1, 1, 0},
		{0, vddk.MaxRead / vddk.Sector, 0},
	} {
		a := c.read(d, r.sector, r.sectors)
		if a.err != r.want {
			t.Errorf("read %d+%d: %v, not %v", r.sector, r.sectors, a.err, r.want)
		}
		if r.want == 0 && !bytes.Equal(a.body, f.disk.Frozen()[r.sector*vddk.Sector:][:r.sectors*vddk.Sector]) {
			t.Errorf("read %d+%d: wrong bytes", r.sector, r.sectors)
		}
		if r.want == vddk.ErrOutOfMemory && !strings.HasPrefix(string(a.body), "[NFC ERROR] NfcFssrvrProcessErrorMsg: received NFC error 5") {
			t.Errorf("read %d+%d says %q", r.sector, r.sectors, a.body)
		}
	}
	if f.faults.BytesRead() != vddk.MaxRead+vddk.Sector {
		t.Errorf("%d bytes were read", f.faults.BytesRead())
	}
	if n := f.faults.Counts()["read"]; n.Calls != 8 || n.Failed != 6 {
		t.Errorf("counts: %+v", n)
	}
}

func TestManyReadsAreAnsweredInAnyOrderWithTheirOwnBytes(t *testing.T) {
	f := start(t)
	c := f.loggedIn(t)
	d := c.mustOpen(disk)
	want := map[uint64]uint64{}
	for range 300 {
		sector := rand.Uint64N(size/vddk.Sector - 64)
		want[c.send(3, u32(d), u64(sector), u32(64))] = sector
	}
	for range 300 {
		a, err := c.receive()
		sector, known := want[a.id]
		if err != nil || a.err != 0 || !known || !bytes.Equal(a.body, f.disk.Frozen()[sector*vddk.Sector:][:64*vddk.Sector]) {
			t.Fatalf("answer %d: %v %v, known %v", a.id, a.err, err, known)
		}
		delete(want, a.id)
	}
}

func TestAllocatedBlocks(t *testing.T) {
	f := start(t)
	c := f.loggedIn(t)
	d, e := c.mustOpen(disk), c.mustOpen(tail)
	ask := func(d uint32, sector, sectors, chunk uint64) answer {
		return c.call(4, u32(d), u64(sector), u64(sectors), u64(chunk))
	}
	for _, r := range []struct {
		what                   string
		disk                   uint32
		sector, sectors, chunk uint64
	}{
		{"small chunks", d, 0, 128, 127},
		{"no chunk", d, 0, 128, 0},
		{"unaligned start", d, 64, 128, 128},
		{"unaligned length", d, 0, 192, 128},
		{"no length", d, 0, 0, 128},
		{"beyond the end", d, size / vddk.Sector, 128, 128},
		{"too many chunks", d, 0, (vddk.MaxChunks + 1) * 128, 128},
		{"overflow", d, 1<<64 - 128, 256, 128},
		{"the tail of a disk that ends within a chunk", e, 5 * 128, 128, 128},
	} {
		if a := ask(r.disk, r.sector, r.sectors, r.chunk); a.err != vddk.ErrInvalidArg {
			t.Errorf("%s: %v", r.what, a.err)
		}
	}
	for _, chunk := range []uint64{128, 256, 1024} {
		a := ask(d, 0, size/vddk.Sector, chunk)
		if a.err != 0 {
			t.Fatal(a.err)
		}
		n, body := binary.BigEndian.Uint32(a.body), a.body[4:]
		end := uint64(0)
		for i := range n {
			start, length := binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
			body = body[16:]
			if start%chunk != 0 || length%chunk != 0 || length == 0 || i > 0 && start <= end {
				t.Fatalf("chunk %d: run %d+%d after %d", chunk, start, length, end)
			}
			if hole := f.disk.Frozen()[end*vddk.Sector : start*vddk.Sector]; len(bytes.Trim(hole, "\x00")) > 0 {
				t.Fatalf("chunk %d: data in the hole %d-%d", chunk, end, start)
			}
			end = start + length
		}
		if n == 0 || chunk == 128 && n < 10 || len(body) > 0 {
			t.Fatalf("chunk %d: %d runs, %d bytes more", chunk, n, len(body))
		}
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	f := start(t)
	for name, frame := range map[string][]byte{
		"unknown operation":   append(u32(0), 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
		"reserved bits":       append(u32(0), 0, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1),
		"a huge body":         append(u32(1<<31), 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
		"a short body":        append(u32(2), 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7, 7),
		"a string too long":   append(u32(4), 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 1, 1),
		"bytes after the end": append(u32(5), 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9),
	} {
		c := f.loggedIn(t)
		if _, err := c.Write(frame); err != nil {
			t.Fatal(err)
		}
		if a, err := c.receive(); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestTheEndOfAConnectionClosesItsDisksEvenWhileStalled(t *testing.T) {
	f := start(t)
	c := f.loggedIn(t)
	d := c.mustOpen(disk)
	if _, err := f.faults.Set(vddk.Fault{Op: "read", Stall: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.faults.Set(vddk.Fault{Op: "open", Stall: true}); err != nil {
		t.Fatal(err)
	}
	for range 100 { // more than the server takes at once
		c.send(3, u32(d), u64(0), u32(1))
	}
	c.send(2, u32(vddk.OpenReadOnly), str(tail))
	eventually(t, "reads are in flight, as many as are let in", func() bool { return f.faults.OpenDisks()[0].InFlight == 64 })
	if n := len(f.faults.OpenDisks()); n != 1 {
		t.Errorf("%d disks are open", n)
	}
	_ = c.Close()
	eventually(t, "the disk is closed", func() bool { return len(f.faults.OpenDisks()) == 0 && f.backend.Logins() == 0 })
}

func TestFaults(t *testing.T) {
	f := start(t)
	c := f.loggedIn(t)
	d := c.mustOpen(disk)
	set := func(fault vddk.Fault) int {
		t.Helper()
		id, err := f.faults.Set(fault)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}

	set(vddk.Fault{Op: "read", Skip: 1, Count: 2, Error: vddk.ErrNoLicense})
	var got []vddk.Error
	for range 4 {
		got = append(got, c.read(d, 0, 1).err)
	}
	if got[0] != 0 || got[1] != vddk.ErrNoLicense || got[2] != vddk.ErrNoLicense || got[3] != 0 {
		t.Errorf("skip 1, count 2: %v", got)
	}

	set(vddk.Fault{Op: "read", Path: "other", Error: vddk.ErrNoLicense})
	set(vddk.Fault{Op: "read", VM: "vm-1", Error: vddk.ErrNoLicense})
	set(vddk.Fault{Op: "close", Error: vddk.ErrNoLicense, Count: 1})
	if a := c.read(d, 0, 1); a.err != 0 {
		t.Errorf("faults of another disk and VM: %v", a.err)
	}
	id := set(vddk.Fault{VM: vddktest.VM, Path: "web.vmdk", Op: "read", Error: vddk.ErrNoLicense})
	if a := c.read(d, 0, 1); a.err != vddk.ErrNoLicense {
		t.Errorf("a fault of this disk: %v", a.err)
	}
	if !f.faults.Clear(id) || f.faults.Clear(id) {
		t.Error("a fault is cleared once")
	}

	set(vddk.Fault{Op: "read", DelayMs: 60, Count: 1})
	began := time.Now()
	if a := c.read(d, 0, 1); a.err != 0 || time.Since(began) < 60*time.Millisecond {
		t.Errorf("a delayed read: %v after %v", a.err, time.Since(began))
	}

	id = set(vddk.Fault{Op: "read", Stall: true})
	stalled := c.send(3, u32(d), u64(0), u32(1))
	time.Sleep(30 * time.Millisecond)
	// Other requests of the connection go on meanwhile: this one is answered first.
	if a := c.call(4, u32(d), u64(0), u64(128), u64(128)); a.err != 0 {
		t.Errorf("a query beside a stalled read: %v", a.err)
	}
	f.faults.Clear(id)
	if a, err := c.receive(); err != nil || a.id != stalled || a.err != 0 {
		t.Errorf("a stalled read, once it is let go: %+v %v", a.err, err)
	}

	set(vddk.Fault{Op: "read", DropAfterBytes: 1000})
	if a := c.read(d, 0, 1); a.err != 0 {
		t.Errorf("the first answer fits: %v", a.err)
	}
	c.send(3, u32(d), u64(0), u32(1))
	if rest, err := io.ReadAll(c.r); len(rest) != 1000-536 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("of the second %d bytes came: %v", len(rest), err)
	}
	f.faults.ClearAll()
	eventually(t, "its disk is closed", func() bool { return len(f.faults.OpenDisks()) == 0 })

	c = f.loggedIn(t)
	d = c.mustOpen(disk)
	set(vddk.Fault{Op: "read", Drop: true, Count: 1})
	c.send(3, u32(d), u64(0), u32(1))
	if _, err := c.receive(); err == nil {
		t.Error("drop: an answer came")
	}
	c = f.loggedIn(t)
	if n := f.faults.DropAll(); n == 0 {
		t.Error("DropAll cut nothing")
	}
	if _, err := c.receive(); err == nil {
		t.Error("DropAll: an answer came")
	}
}

func TestAFaultThatSaysNothingSensibleIsRefused(t *testing.T) {
	var f vddk.Faults
	for _, fault := range []vddk.Fault{{}, {Op: "raed", Drop: true}, {Op: "read", DelayMs: -1}, {Skip: -1, Drop: true}, {Op: "read", Skip: 4}} {
		if _, err := f.Set(fault); err == nil {
			t.Errorf("%+v was taken", fault)
		}
	}
}

func TestPrepareForAccess(t *testing.T) {
	f := start(t)
	ask := func(op uint16, password string) vddk.Error {
		return f.dial(t).call(op, str(vddktest.User), str(password), str(vddktest.VM), str("hawser")).err
	}
	if e := ask(7, vddktest.Password); e != vddk.ErrInvalidArg {
		t.Errorf("end without prepare: %v", e)
	}
	if e := ask(6, "wrong"); e != vddk.ErrPermissions {
		t.Errorf("wrong password: %v", e)
	}
	if e := ask(6, vddktest.Password); e != 0 {
		t.Errorf("prepare: %v", e)
	}
	if e := ask(7, vddktest.Password); e != 0 {
		t.Errorf("end: %v", e)
	}

	type plain struct{ vddk.Backend } // without the Preparer's methods
	g := *f
	g.server = httptest.NewTLSServer(http.StripPrefix("", vddk.Handler(plain{f.backend}, f.faults)))
	defer g.server.Close()
	if e := g.dial(t).call(6, str(vddktest.User), str(vddktest.Password), str(vddktest.VM), str("hawser")).err; e != vddk.ErrNotSupported {
		t.Errorf("a backend that can't: %v", e)
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	f := start(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	opened := map[vddk.Error]int{}
	for i := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c := f.loggedIn(t)
			d, e := c.open([]string{disk, tail}[i%2], vddk.OpenReadOnly)
			mu.Lock()
			opened[e]++
			mu.Unlock()
			if e == 0 {
				for range 20 {
					if a := c.read(d, 0, 8); a.err != 0 {
						t.Error(a.err)
					}
				}
			}
			time.Sleep(100 * time.Millisecond)
			_ = c.Close()
		}()
	}
	wg.Wait()
	if opened[0] < 2 || opened[0]+opened[vddk.ErrAlreadyLocked]+opened[vddk.ErrRefused] != 16 {
		t.Errorf("opened: %v", opened)
	}
}
