package testkit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
)

// Payload returns a reader of n bytes that look random (no compression or
// deduplication on the way can help) and depend on seed alone.
func Payload(seed uint64, n int64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// PayloadBytes is Payload in memory.
func PayloadBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(Payload(seed, int64(n)), b); err != nil {
		panic(fmt.Sprintf("a generator does not end: %v", err))
	}
	return b
}

// PayloadHash returns the hash that Hash gives for Payload(seed, n).
func PayloadHash(seed uint64, n int64) string {
	sum, _, err := Hash(Payload(seed, n))
	if err != nil {
		panic(fmt.Sprintf("a generator does not fail: %v", err))
	}
	return sum
}

// Hash reads r to its end and returns the SHA-256 of it in hex and its length
// in bytes; both describe what came before the error when there is one.
func Hash(r io.Reader) (sum string, n int64, err error) {
	h := sha256.New()
	n, err = io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), n, err
}
