package tunnel

// ahead1 is how far a number of a dialect 1 peer may be from the highest that it
// has used so far, either way.
const ahead1 = 4096

// numbers1 holds which connection numbers a dialect 1 peer has used. It counts
// upwards, but opens from many tasks at once: numbers may overtake each other,
// and none may come twice.
type numbers1 struct {
	highest uint32
	seen    [ahead1 / 64]uint64 // a ring of the numbers up to highest
}

// use takes a number; false: it was used before, or is too far away.
func (u *numbers1) use(n uint32) bool {
	switch {
	case n > u.highest:
		if n-u.highest > ahead1 {
			return false
		}
		for at := u.highest + 1; at != n; at++ {
			u.seen[at%ahead1/64] &^= 1 << (at % 64)
		}
		u.highest = n
	case n == 0, u.highest-n >= ahead1, u.seen[n%ahead1/64]&(1<<(n%64)) != 0:
		return false
	}
	u.seen[n%ahead1/64] |= 1 << (n % 64)
	return true
}
