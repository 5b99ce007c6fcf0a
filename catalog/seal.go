package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/pgha-backup/pgha-backup/internal/codec"
)

// A seal is the last field of every JSON object that is stored: the SHA-256 of all
// bytes before its digits, so that a flipped bit shows even in a text or a time that
// nothing contradicts. What stands behind the digits is fixed.
const (
	sealHead = ",\n \"seal\": \""
	sealEnd  = "\"\n}\n"
	sealSize = 2*sha256.Size + len(sealEnd)
)

// sealable is a JSON object with room for its seal.
func sealable(object []byte) []byte {
	object = bytes.TrimRight(bytes.TrimSuffix(object, []byte("}")), "\n")
	return fmt.Appendf(object, "%s%0*d%s", sealHead, 2*sha256.Size, 0, sealEnd)
}

// seal fills that room, whatever stands before the object.
func seal(stored []byte) []byte {
	at := len(stored) - sealSize
	copy(stored[at:], hexSHA256(stored[:at]))
	return stored
}

// checkSeal compares. An object with neither a seal nor the looks of a damaged one was
// written by an early version, and nothing can be said.
func checkSeal(stored []byte) error {
	at := len(stored) - sealSize
	if at < 0 {
		return nil
	}
	digits, end := string(stored[at:len(stored)-len(sealEnd)]), string(stored[len(stored)-len(sealEnd):])
	if _, err := hex.DecodeString(digits); (err != nil || end != sealEnd) && !bytes.Contains(stored, []byte(sealHead)) {
		return nil
	}
	if digits != hexSHA256(stored[:at]) || end != sealEnd {
		return fmt.Errorf("%w: its bytes are not those that its seal was made of", codec.ErrCorrupt)
	}
	return nil
}
