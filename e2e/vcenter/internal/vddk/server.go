package vddk

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// A client that says nothing after the upgrade is cut.
	loginTimeout = 30 * time.Second
	// Reads that one connection may have in work. The library asks for less; this bounds what a broken client can take.
	maxInFlight = 64
	// Requests that may wait behind them: up to here the end of a connection is seen even while all its reads are held back.
	maxWaiting = 1024
)

// Handler serves the protocol of the package's documentation. faults may be nil.
func Handler(b Backend, faults *Faults) http.Handler {
	if faults == nil {
		faults = &Faults{}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			http.Error(w, "the VDDK protocol is served over TLS only", http.StatusBadRequest)
			return
		}
		if r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), Protocol) {
			w.Header().Set("Upgrade", Protocol)
			http.Error(w, "expected: GET with Upgrade: "+Protocol, http.StatusUpgradeRequired)
			return
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, "the VDDK protocol needs HTTP/1.1: "+err.Error(), http.StatusHTTPVersionNotSupported)
			return
		}
		serve(b, faults, conn, buf.Reader)
	})
}

// session is one client's connection.
type session struct {
	backend Backend
	faults  *Faults
	net     net.Conn
	ctx     context.Context
	cancel  context.CancelFunc

	// write orders answers on the connection.
	write sync.Mutex
	slots chan struct{}
	work  sync.WaitGroup

	// Below: only the goroutine that dispatches.
	conn  Conn
	creds Credentials
	next  uint32
	disks map[uint32]*openDisk
}

// openDisk is a disk and who reads it. OpenDisk is guarded by the lock of Faults.
type openDisk struct {
	OpenDisk
	disk  Disk
	reads sync.WaitGroup
}

func serve(b Backend, faults *Faults, c net.Conn, r *bufio.Reader) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{
		backend: b, faults: faults, net: c, ctx: ctx, cancel: cancel,
		slots: make(chan struct{}, maxInFlight), disks: map[uint32]*openDisk{},
	}
	faults.addConn(c)
	defer s.end()
	if err := c.SetDeadline(time.Now().Add(loginTimeout)); err != nil {
		return
	}
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", Protocol); err != nil {
		return
	}
	requests := make(chan request, maxWaiting)
	go s.receive(r, requests)
	for req := range requests {
		if !s.dispatch(req) {
			return
		}
	}
}

// receive reads beside the work, so that the end of a connection is seen while a request is held back.
func (s *session) receive(r io.Reader, requests chan<- request) {
	defer close(requests)
	defer s.cancel()
	for first := true; ; first = false {
		req, err := readRequest(r)
		if err != nil {
			return
		}
		if first && s.net.SetDeadline(time.Time{}) != nil {
			return
		}
		select {
		case requests <- req:
		case <-s.ctx.Done():
			return
		}
	}
}

// end closes what the client left open: a connection that is cut must not hold a disk's slot or lock.
func (s *session) end() {
	s.cancel()
	_ = s.net.Close() // it may be cut already
	s.work.Wait()
	for _, d := range s.disks {
		s.closeDisk(d)
	}
	if s.conn != nil {
		_ = s.conn.Close() // nobody is left to be told
	}
	s.faults.removeConn(s.net)
}

func (s *session) closeDisk(d *openDisk) error {
	d.reads.Wait()
	err := d.disk.Close()
	s.faults.removeDisk(d)
	return err
}

// dispatch handles a request, reads in goroutines of their own. False ends the connection.
func (s *session) dispatch(req request) bool {
	f := &fields{b: req.body}
	switch req.op {
	case opConnect, opPrepare, opEnd:
		c := Credentials{User: f.str(), Password: f.str(), VM: f.str()}
		fourth := f.str()
		if req.op == opConnect {
			c.Snapshot = fourth
			f.u8() // read-only: what counts is the flag of open
		}
		return f.done() && s.answer(req, c.VM, "", nil, func() ([]byte, error) { return nil, s.login(req.op, c, fourth) })
	case opOpen:
		flags, path := f.u32(), f.str()
		return f.done() && s.conn != nil && s.answer(req, s.creds.VM, path, nil, func() ([]byte, error) { return s.open(path, flags) })
	}
	d := s.disks[f.u32()]
	var work func() ([]byte, error)
	switch req.op {
	case opRead:
		sector, sectors := f.u64(), f.u32()
		work = func() ([]byte, error) { return read(d.disk, sector, sectors) }
	case opAllocated:
		sector, sectors, chunk := f.u64(), f.u64(), f.u64()
		work = func() ([]byte, error) { return allocated(d.disk, sector, sectors, chunk) }
	}
	if !f.done() {
		return false
	}
	if d == nil {
		return s.answer(req, s.creds.VM, "", nil, func() ([]byte, error) { return nil, fmt.Errorf("no such disk is open: %w", ErrInvalidArg) })
	}
	if req.op == opClose {
		return s.answer(req, d.VM, d.Path, d, func() ([]byte, error) {
			delete(s.disks, binary.BigEndian.Uint32(req.body))
			return nil, s.closeDisk(d)
		})
	}
	s.slots <- struct{}{}
	s.work.Add(1)
	d.reads.Add(1)
	s.faults.inFlight(d, 1)
	go func() {
		if !s.answer(req, d.VM, d.Path, d, work) {
			_ = s.net.Close() // receive sees it, and the session ends
		}
		s.faults.inFlight(d, -1)
		d.reads.Done()
		s.work.Done()
		<-s.slots
	}()
	return true
}

func (s *session) login(o op, c Credentials, identity string) error {
	if s.conn != nil {
		return fmt.Errorf("already connected: %w", ErrInvalidArg)
	}
	if o == opConnect {
		conn, err := s.backend.Connect(s.ctx, c)
		if err != nil {
			return err
		}
		s.conn, s.creds = conn, c
		return nil
	}
	p, ok := s.backend.(Preparer)
	if !ok {
		return ErrNotSupported
	}
	if o == opPrepare {
		return p.PrepareForAccess(s.ctx, c, identity)
	}
	return p.EndAccess(s.ctx, c, identity)
}

func (s *session) open(path string, flags uint32) ([]byte, error) {
	disk, err := s.conn.Open(path, flags)
	if err != nil {
		return nil, err
	}
	s.next++
	d := &openDisk{disk: disk, OpenDisk: OpenDisk{
		VM: s.creds.VM, Snapshot: s.creds.Snapshot, Path: path, User: s.creds.User, Since: time.Now(),
	}}
	s.disks[s.next] = d
	s.faults.addDisk(d)
	body := binary.BigEndian.AppendUint32(nil, s.next)
	return binary.BigEndian.AppendUint64(body, uint64(disk.Capacity())), nil
}

func read(d Disk, sector uint64, sectors uint32) ([]byte, error) {
	total := uint64(d.Capacity()) / Sector
	n := int(sectors) * Sector
	switch {
	case sectors == 0:
		return nil, fmt.Errorf("a read of no sectors: %w", ErrInvalidArg)
	case n > MaxRead:
		// The host counts its own header of 24 bytes.
		return nil, fmt.Errorf("[NFC ERROR] NfcFssrvrProcessErrorMsg: received NFC error 5 from server: Failed to allocate the requested %d bytes: %w",
			n+24, ErrOutOfMemory)
	case sector > total || uint64(sectors) > total-sector:
		return nil, fmt.Errorf("sectors %d+%d of a disk of %d: %w", sector, sectors, total, ErrDiskOutOfRange)
	}
	p := make([]byte, n)
	// io.EOF may come with the last bytes of a disk.
	if got, err := d.ReadAt(p, int64(sector)*Sector); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = ErrFail
		}
		return nil, err
	}
	return p, nil
}

func allocated(d Disk, sector, sectors, chunk uint64) ([]byte, error) {
	total := uint64(d.Capacity()) / Sector
	switch {
	case chunk < MinChunk || sectors == 0 || sector%chunk != 0 || sectors%chunk != 0:
		return nil, fmt.Errorf("QueryAllocatedBlocks of sectors %d+%d by %d: whole chunks of at least %d sectors: %w",
			sector, sectors, chunk, MinChunk, ErrInvalidArg)
	case sectors/chunk > MaxChunks:
		return nil, fmt.Errorf("QueryAllocatedBlocks of %d chunks, at most %d: %w", sectors/chunk, MaxChunks, ErrInvalidArg)
	case sector > total || sectors > total-sector:
		return nil, fmt.Errorf("QueryAllocatedBlocks of sectors %d+%d of a disk of %d: %w", sector, sectors, total, ErrInvalidArg)
	}
	areas, err := d.Allocated(int64(sector)*Sector, int64(sectors)*Sector)
	if err != nil {
		return nil, err
	}
	// Whole chunks, and none twice.
	type run struct{ start, end uint64 }
	var runs []run
	for _, a := range areas {
		if a.Length <= 0 {
			continue
		}
		start := max(uint64(a.Start)/Sector/chunk*chunk, sector)
		end := min((uint64(a.Start+a.Length)+Sector*chunk-1)/Sector/chunk*chunk, sector+sectors)
		if k := len(runs) - 1; k >= 0 && start <= runs[k].end {
			runs[k].end = max(runs[k].end, end)
		} else if start < end {
			runs = append(runs, run{start, end})
		}
	}
	body := binary.BigEndian.AppendUint32(nil, uint32(len(runs)))
	for _, r := range runs {
		body = binary.BigEndian.AppendUint64(body, r.start)
		body = binary.BigEndian.AppendUint64(body, r.end-r.start)
	}
	return body, nil
}

// answer does the work unless a fault forbids it, and sends what came of it. False ends the connection.
func (s *session) answer(req request, vm, path string, d *openDisk, work func() ([]byte, error)) bool {
	rules := s.faults.match(req.op, vm, path)
	var body []byte
	var err error
	for _, r := range rules {
		if !s.wait(r) {
			s.faults.count(req.op, true, d, 0)
			return false
		}
		if r.fault.Drop {
			s.faults.count(req.op, true, d, 0)
			return false
		}
		if r.fault.Error != 0 {
			err = r.fault.Error
		}
	}
	if err == nil {
		body, err = work()
	}
	var e Error
	if err != nil {
		e, body = code(err), []byte(err.Error())
	}
	data := int64(0)
	if req.op == opRead && err == nil {
		data = int64(len(body))
	}
	s.faults.count(req.op, err != nil, d, data)
	return s.send(appendAnswer(nil, req.op, req.id, e, len(body)), body, rules)
}

// wait holds a request as long as a rule says. False means that the connection ended first.
func (s *session) wait(r *rule) bool {
	if r.fault.DelayMs > 0 {
		t := time.NewTimer(time.Duration(r.fault.DelayMs) * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return false
		}
	}
	if r.fault.Stall {
		select {
		case <-r.gone:
		case <-s.ctx.Done():
			return false
		}
	}
	return true
}

func (s *session) send(header, body []byte, rules []*rule) bool {
	s.write.Lock()
	defer s.write.Unlock()
	n := len(header) + len(body)
	room := s.faults.room(rules, n)
	for _, p := range [][]byte{header, body} {
		k := min(len(p), room)
		room -= k
		if k > 0 {
			if _, err := s.net.Write(p[:k]); err != nil {
				return false
			}
		}
		if k < len(p) {
			return false
		}
	}
	return true
}
