package disk

import "math/bits"

// pageBits is how many bits one page of a set holds.
const pageBits = 64 * 64

type page [64]uint64

// fullPage is shared by all sets: a thick disk of a terabyte then costs pointers only.
var fullPage = func() *page {
	var p page
	for i := range p {
		p[i] = ^uint64(0)
	}
	return &p
}()

// bitset is a sparse set of grain numbers. The zero value is empty.
type bitset struct {
	pages map[int64]*page
	n     int64
}

// count is how many grains are in the set.
func (s *bitset) count() int64 { return s.n }

func (s *bitset) has(i int64) bool {
	p := s.pages[i/pageBits]
	return p != nil && p[i%pageBits/64]&(1<<(i%64)) != 0
}

// own returns the page to be changed, made if it is missing and copied if it is shared.
func (s *bitset) own(n int64) *page {
	if s.pages == nil {
		s.pages = map[int64]*page{}
	}
	p := s.pages[n]
	switch p {
	case nil:
		p = new(page)
	case fullPage:
		c := *fullPage
		p = &c
	default:
		return p
	}
	s.pages[n] = p
	return p
}

// mask has the bits of one word that lie in from..to, both counted from the word's first bit.
func mask(from, to int64) uint64 {
	m := ^uint64(0)
	if from > 0 {
		m &= ^uint64(0) << from
	}
	if to < 64 {
		m &= ^(^uint64(0) << to)
	}
	return m
}

// set adds from..to (to excluded).
func (s *bitset) set(from, to int64) { s.change(from, to, true) }

// clear removes from..to (to excluded).
func (s *bitset) clear(from, to int64) { s.change(from, to, false) }

func (s *bitset) change(from, to int64, on bool) {
	for from < to {
		n := from / pageBits
		end := min(to, (n+1)*pageBits)
		switch {
		case !on && s.pages[n] == nil, on && s.pages[n] == fullPage:
			// as it should be
		case on && end-from == pageBits:
			s.n += pageBits
			if old := s.pages[n]; old != nil {
				s.n -= ones(old)
			}
			if s.pages == nil {
				s.pages = map[int64]*page{}
			}
			s.pages[n] = fullPage
		case !on && end-from == pageBits:
			s.n -= ones(s.pages[n])
			delete(s.pages, n)
		default:
			s.changeIn(s.own(n), from-n*pageBits, end-n*pageBits, on)
		}
		from = end
	}
}

func (s *bitset) changeIn(p *page, from, to int64, on bool) {
	for w := from / 64; w*64 < to; w++ {
		m := mask(from-w*64, to-w*64)
		before := bits.OnesCount64(p[w])
		if on {
			p[w] |= m
		} else {
			p[w] &^= m
		}
		s.n += int64(bits.OnesCount64(p[w]) - before)
	}
}

func ones(p *page) int64 {
	var n int64
	for _, w := range p {
		n += int64(bits.OnesCount64(w))
	}
	return n
}

// runs calls yield for each maximal run of grains in from..to whose bit is set in what fill says of each page; a fill that answers false
// means an empty page. It ends early when yield answers false.
func runs(from, to int64, fill func(n int64, p *page) bool, yield func(from, to int64) bool) {
	start := int64(-1)
	var p page
	for n := from / pageBits; n*pageBits < to; n++ {
		p = page{}
		if !fill(n, &p) {
			if start >= 0 {
				if !yield(start, n*pageBits) {
					return
				}
				start = -1
			}
			continue
		}
		for w := range p {
			base := n*pageBits + int64(w)*64
			if base >= to || base+64 <= from {
				continue
			}
			v := p[w] & mask(from-base, to-base)
			if start >= 0 && v == ^uint64(0) || start < 0 && v == 0 {
				continue
			}
			// The borders of this word's runs, one after the other.
			for b := int64(0); b < 64; {
				var skip int64
				if start < 0 {
					skip = int64(bits.TrailingZeros64(v >> b))
				} else {
					skip = int64(bits.TrailingZeros64(^(v >> b)))
				}
				if b+skip >= 64 {
					break
				}
				b += skip
				if start < 0 {
					start = base + b
					continue
				}
				if !yield(start, base+b) {
					return
				}
				start = -1
			}
		}
	}
	if start >= 0 {
		yield(start, to)
	}
}

// each calls yield for each maximal run of the set within from..to.
func (s *bitset) each(from, to int64, yield func(from, to int64) bool) {
	runs(from, to, func(n int64, p *page) bool {
		q := s.pages[n]
		if q == nil {
			return false
		}
		*p = *q
		return true
	}, yield)
}
