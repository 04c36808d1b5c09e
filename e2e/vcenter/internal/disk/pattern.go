package disk

import "encoding/binary"

// Pattern fills p with the bytes that the seeded pattern has at off, so that contents can be declared by a number and checked by anybody:
// the disk is a row of 8-byte little-endian words, and word i is the i-th output of SplitMix64 started at the seed.
func Pattern(seed uint64, off int64, p []byte) {
	var word [8]byte
	for len(p) > 0 {
		i := uint64(off / 8)
		skip := int(off % 8)
		z := seed + (i+1)*0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		if skip == 0 && len(p) >= 8 {
			binary.LittleEndian.PutUint64(p, z)
			p, off = p[8:], off+8
			continue
		}
		binary.LittleEndian.PutUint64(word[:], z)
		n := copy(p, word[skip:])
		p, off = p[n:], off+int64(n)
	}
}
