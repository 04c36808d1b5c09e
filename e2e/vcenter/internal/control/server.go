package control

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"hawser.dev/e2e/vcenter/internal/disk"
	"hawser.dev/e2e/vcenter/internal/vddk"
)

// maxBody is the most that one write of the guest carries.
const maxBody = 64 << 20

type server struct{ vc VCenter }

// call handles one request; a nil answer is 204.
type call func(r *http.Request) (any, error)

// New serves the control port of a vCenter.
func New(vc VCenter) http.Handler {
	s := &server{vc}
	mux := http.NewServeMux()
	for pattern, c := range s.calls() {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := c(r)
			reply(w, answer, err)
		})
	}
	mux.HandleFunc("GET /v1/vms/{vm}/disks/{disk}/bytes", s.bytes(s.current))
	mux.HandleFunc("GET /v1/snapshots/{snapshot}/disks/{disk}/bytes", s.bytes(s.frozen))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		// ServeMux's own answer tells 405 from 404 by which methods the path has; only its words are not ours.
		p := &probe{header: w.Header()}
		h.ServeHTTP(p, r)
		e := &Error{Code: CodeNotFound, Sentence: fmt.Sprintf("there is no %s %s: the paths are listed in e2e/vcenter/internal/control/doc.go",
			r.Method, r.URL.Path)}
		if p.status == http.StatusMethodNotAllowed {
			e = &Error{http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s, not %s", r.URL.Path, w.Header().Get("Allow"), r.Method)}
		}
		reply(w, nil, e)
	})
}

// probe swallows an answer but for its status and headers.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) WriteHeader(status int)      { p.status = status }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }

func reply(w http.ResponseWriter, answer any, err error) {
	if err != nil {
		code, sentence := status(err), err.Error()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Del("Content-Length")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": sentence}) // a client that went away is no concern of ours
		return
	}
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func status(err error) int {
	var e *Error
	switch {
	case errors.As(err, &e):
		return int(e.Code)
	case errors.Is(err, disk.ErrBeyondEnd), errors.Is(err, disk.ErrCapacity):
		return http.StatusBadRequest
	case errors.Is(err, disk.ErrNoSuchPoint):
		return http.StatusNotFound
	case errors.Is(err, disk.ErrHasSnapshots), errors.Is(err, disk.ErrPointExists), errors.Is(err, disk.ErrClosed):
		return http.StatusConflict
	case errors.Is(err, disk.ErrNoSpace):
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// body decodes the request's JSON into v, which may have what is default in it. An empty body is an empty object.
func body(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("there is more after the object")
	}
	return Invalid("the body is not what %s takes: %v", r.URL.Path, err)
}

func diskKey(r *http.Request) (int32, error) {
	n, err := strconv.ParseInt(r.PathValue("disk"), 10, 32)
	if err != nil || n <= 0 {
		return 0, Invalid("%q is no disk: give the key of a VirtualDisk, such as 2000", r.PathValue("disk"))
	}
	return int32(n), nil
}

// number reads a whole number from the query; it may be missing.
func number(r *http.Request, name string) (n int64, given bool, err error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, true, Invalid("%s=%q: give a whole number of bytes, not negative", name, s)
	}
	return n, true, nil
}

// span is the range asked for within size bytes; without a length, to the end.
func span(r *http.Request, size int64) (off, n int64, err error) {
	if err := queries(r, "offset", "length"); err != nil {
		return 0, 0, err
	}
	off, _, err = number(r, "offset")
	if err != nil {
		return 0, 0, err
	}
	n, given, err := number(r, "length")
	switch {
	case err != nil:
		return 0, 0, err
	case off > size || given && n > size-off:
		return 0, 0, Invalid("offset %d and length %d reach beyond the disk's %d bytes", off, n, size)
	case !given:
		n = size - off
	}
	return off, n, nil
}

// queries refuses parameters that the path does not know: a misspelt "lenght" must not mean "all".
func queries(r *http.Request, known ...string) error {
	for name := range r.URL.Query() {
		ok := false
		for _, k := range known {
			ok = ok || k == name
		}
		if !ok {
			return Invalid("unknown parameter %q: %s takes %s", name, r.URL.Path, strings.Join(known, ", "))
		}
	}
	return nil
}

func (s *server) current(r *http.Request) (disk.Reader, error) {
	key, err := diskKey(r)
	if err != nil {
		return nil, err
	}
	return s.vc.CurrentDisk(r.PathValue("vm"), key)
}

func (s *server) frozen(r *http.Request) (disk.Reader, error) {
	key, err := diskKey(r)
	if err != nil {
		return nil, err
	}
	return s.vc.SnapshotDisk(r.PathValue("snapshot"), key)
}

type opener func(r *http.Request) (disk.Reader, error)

func (s *server) bytes(open opener) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		d, err := open(r)
		if err != nil {
			reply(w, nil, err)
			return
		}
		off, n, err := span(r, d.Size())
		if err != nil {
			reply(w, nil, err)
			return
		}
		if n > 0 {
			// What fails later can only be told by cutting the answer short.
			if _, err := d.ReadAt(make([]byte, 1), off); err != nil {
				reply(w, nil, err)
				return
			}
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(d, off, n), make([]byte, 1<<20)); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

func (s *server) sha256(open opener) call {
	return func(r *http.Request) (any, error) {
		d, err := open(r)
		if err != nil {
			return nil, err
		}
		off, n, err := span(r, d.Size())
		if err != nil {
			return nil, err
		}
		var sum [32]byte
		if n == d.Size() {
			sum, err = d.SHA256()
		} else {
			h := sha256.New()
			_, err = io.Copy(h, io.NewSectionReader(d, off, n))
			sum = [32]byte(h.Sum(nil))
		}
		return map[string]any{"sha256": hex.EncodeToString(sum[:]), "offset": off, "length": n, "size": d.Size()}, err
	}
}

func (s *server) allocated(r *http.Request) (any, error) {
	d, err := s.frozen(r)
	if err != nil {
		return nil, err
	}
	off, n, err := span(r, d.Size())
	if err != nil {
		return nil, err
	}
	return d.Allocated(off, n)
}

// write is the guest's: the body, or the seeded pattern, or zeroes.
func (s *server) write(r *http.Request) (any, error) {
	vm := r.PathValue("vm")
	key, err := diskKey(r)
	if err != nil {
		return nil, err
	}
	if err := queries(r, "offset", "length", "seed", "zero"); err != nil {
		return nil, err
	}
	q := r.URL.Query()
	off, given, err := number(r, "offset")
	if err != nil {
		return nil, err
	}
	if !given {
		return nil, Invalid("offset is missing: say where to write")
	}
	n, sized, err := number(r, "length")
	if err != nil {
		return nil, err
	}
	seeded, zero := q.Has("seed"), q.Get("zero")
	if zero != "" && zero != "true" {
		return nil, Invalid("zero=%q: it is true or left out", zero)
	}
	switch {
	case seeded && zero != "":
		return nil, Invalid("seed and zero exclude each other")
	case (seeded || zero != "") && !sized:
		return nil, Invalid("length is missing: say how much to write")
	case (seeded || zero != "") && r.ContentLength > 0:
		return nil, Invalid("a body and seed or zero exclude each other")
	case zero != "":
		return nil, s.vc.GuestZero(vm, key, off, n)
	case seeded:
		seed, err := strconv.ParseUint(q.Get("seed"), 10, 64)
		if err != nil {
			return nil, Invalid("seed=%q: give a whole number", q.Get("seed"))
		}
		p := make([]byte, min(n, 1<<20))
		for n > 0 {
			p = p[:min(n, int64(len(p)))]
			disk.Pattern(seed, off, p)
			if err := s.vc.GuestWrite(vm, key, p, off); err != nil {
				return nil, err
			}
			off, n = off+int64(len(p)), n-int64(len(p))
		}
		return nil, nil
	}
	p, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &Error{CodeTooLarge, fmt.Sprintf("a body may hold %d bytes: write in pieces, or the seeded pattern", maxBody)}
	case err != nil:
		return nil, Invalid("the body could not be read: %v", err)
	case sized && n != int64(len(p)):
		return nil, Invalid("length is %d, the body has %d bytes", n, len(p))
	case len(p) == 0:
		return nil, Invalid("nothing to write: give a body, or length with seed or zero")
	}
	return nil, s.vc.GuestWrite(vm, key, p, off)
}

// vddkState is what GET /v1/vddk answers.
type vddkState struct {
	OpenDisks   []vddk.OpenDisk       `json:"openDisks"`
	Connections int                   `json:"connections"`
	BytesRead   int64                 `json:"bytesRead"`
	Counts      map[string]vddk.Count `json:"counts"`
}
