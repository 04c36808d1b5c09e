package vddk

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Protocol is the word of the Upgrade header.
const Protocol = "hawser-vddk/1"

// Limits of the data path.
const (
	// MaxRead is the largest read that goes through a vCenter: a larger one meets "NFC error 5" of the host (CDI limits its own so).
	MaxRead = 2 << 20
	// MinChunk is the smallest chunk of QueryAllocatedBlocks, in sectors (VIXDISKLIB_MIN_CHUNK_SIZE).
	MinChunk = 128
	// MaxChunks is how many chunks one QueryAllocatedBlocks may span (VIXDISKLIB_MAX_CHUNK_NUMBER).
	MaxChunks = 512 * 1024
	// maxRequest bounds what a client can make the server allocate.
	maxRequest = 64 << 10
)

type op uint16

const (
	opConnect op = iota + 1
	opOpen
	opRead
	opAllocated
	opClose
	opPrepare
	opEnd
)

var opNames = map[op]string{
	opConnect: "connect", opOpen: "open", opRead: "read", opAllocated: "allocated", opClose: "close", opPrepare: "prepare", opEnd: "end",
}

type request struct {
	op   op
	id   uint64
	body []byte
}

func readRequest(r io.Reader) (request, error) {
	var h [16]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return request{}, err
	}
	n := binary.BigEndian.Uint32(h[0:])
	req := request{op: op(binary.BigEndian.Uint16(h[4:])), id: binary.BigEndian.Uint64(h[8:])}
	if n > maxRequest || binary.BigEndian.Uint16(h[6:]) != 0 || opNames[req.op] == "" {
		return request{}, fmt.Errorf("bad frame: operation %d, %d bytes", req.op, n)
	}
	req.body = make([]byte, n)
	_, err := io.ReadFull(r, req.body)
	return req, err
}

const answerHeader = 24

func appendAnswer(b []byte, o op, id uint64, e Error, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	b = binary.BigEndian.AppendUint16(b, uint16(o))
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint64(b, id)
	return binary.BigEndian.AppendUint64(b, uint64(e))
}

// fields takes a body apart; what is too short, or too long at done, sets bad.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if len(f.b) < n {
		f.bad = true
		return make([]byte, n)
	}
	p := f.b[:n]
	f.b = f.b[n:]
	return p
}

func (f *fields) u8() uint8   { return f.take(1)[0] }
func (f *fields) u32() uint32 { return binary.BigEndian.Uint32(f.take(4)) }
func (f *fields) u64() uint64 { return binary.BigEndian.Uint64(f.take(8)) }
func (f *fields) str() string { return string(f.take(int(binary.BigEndian.Uint16(f.take(2))))) }
func (f *fields) done() bool  { return !f.bad && len(f.b) == 0 }
