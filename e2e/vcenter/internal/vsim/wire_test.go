package vsim

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"hawser.dev/e2e/vcenter/internal/vddk"
)

// wire is the smallest client of the VDDK stand-in's protocol (see package vddk).
type wire struct {
	*bed
	conn *tls.Conn
	in   *bufio.Reader
	id   uint64
}

func (b *bed) wire() *wire {
	b.Helper()
	conn, err := tls.Dial("tcp", b.url.Host, &tls.Config{InsecureSkipVerify: true})
	b.must(err)
	b.Cleanup(func() { conn.Close() })
	_, err = fmt.Fprintf(conn, "GET /vddk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", vddk.Protocol)
	b.must(err)
	w := &wire{bed: b, conn: conn, in: bufio.NewReader(conn)}
	for {
		line, err := w.in.ReadString('\n')
		b.must(err)
		if line == "\r\n" {
			return w
		}
	}
}

func text(parts ...string) []byte {
	var p []byte
	for _, s := range parts {
		p = append(binary.BigEndian.AppendUint16(p, uint16(len(s))), s...)
	}
	return p
}

func (w *wire) call(op uint16, body []byte) (vddk.Error, []byte) {
	w.Helper()
	w.id++
	p := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	p = binary.BigEndian.AppendUint16(p, op)
	p = binary.BigEndian.AppendUint16(p, 0)
	p = binary.BigEndian.AppendUint64(p, w.id)
	_, err := w.conn.Write(append(p, body...))
	w.must(err)
	head := make([]byte, 24)
	_, err = io.ReadFull(w.in, head)
	w.must(err)
	out := make([]byte, binary.BigEndian.Uint32(head))
	_, err = io.ReadFull(w.in, out)
	w.must(err)
	return vddk.Error(binary.BigEndian.Uint64(head[16:])), out
}

func TestDataPathOverTheWire(t *testing.T) {
	b := start(t)
	s := b.snap("web")
	vm := b.vm("web").Reference().Value
	const worker = "worker@vsphere.local"
	code, _ := b.wire().call(1, append(text(worker, "wrong", vm, s.ref.Value), 1))
	equal(b, code, vddk.ErrPermissions)
	w := b.wire()
	code, _ = w.call(1, append(text(worker, "sandbox", vm, s.ref.Value), 1))
	equal(b, code, vddk.Error(0))
	open := func(name string) (vddk.Error, []byte) {
		return w.call(2, append(binary.BigEndian.AppendUint32(nil, vddk.OpenReadOnly), text(name)...))
	}
	code, _ = open("[ds-1] web/web-000001.vmdk")
	equal(b, code, vddk.ErrFileNotFound)
	code, body := open(flat(s.disks[0]).FileName)
	equal(b, code, vddk.Error(0))
	code, _ = open(flat(s.disks[0]).FileName)
	equal(b, code, vddk.ErrAlreadyLocked)
	frozen, err := b.ctl.SnapshotDisk(s.ref.Value, 2000)
	b.must(err)
	want := readAll(b, frozen)[:64<<10]
	b.write("web", 2000, 0, 64<<10)
	read := append(append([]byte(nil), body[:4]...), binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, 0), 128)...)
	code, got := w.call(3, read)
	if code != 0 || !bytes.Equal(got, want) {
		t.Fatalf("read: %v, %d bytes", code, len(got))
	}
	equal(b, b.vc.handles.count(nil), 1)
	b.must(b.ctl.Migrate("web", "esx-2"))
	code, _ = w.call(3, read)
	equal(b, code, vddk.ErrConnectionLost)
}
