// Messages of PostgreSQL's protocol, version 3, as far as the proxy has to understand them.

package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// What the first packet of a connection can ask for instead of a session.
const (
	codeCancel = 80877102
	codeTLS    = 80877103
	codeGSS    = 80877104
)

const (
	maxStartup = 10_000    // bytes; PostgreSQL's own bound
	maxMessage = 256 << 20 // bytes; more is a mistake of the one who reads
	headerSize = 5         // the kind of a message, and its length without the kind
)

// startup is the first packet of a connection.
type startup struct {
	raw        []byte
	code       uint32            // the protocol's version, or one of the codes
	parameters map[string]string // of a session
	pid        uint32            // of the session to be cancelled
}

// readStartup reads a first packet. A request to encrypt is one too: another follows it.
func readStartup(r io.Reader) (startup, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return startup{}, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size < 8 || size > maxStartup {
		return startup{}, fmt.Errorf("a first packet of %d bytes", size)
	}
	s := startup{raw: make([]byte, size)}
	copy(s.raw, length[:])
	if _, err := io.ReadFull(r, s.raw[4:]); err != nil {
		return startup{}, err
	}
	s.code = binary.BigEndian.Uint32(s.raw[4:])
	switch rest := s.raw[8:]; s.code {
	case codeTLS, codeGSS:
	case codeCancel:
		if len(rest) < 8 {
			return startup{}, errors.New("a cancel request that is too short")
		}
		s.pid = binary.BigEndian.Uint32(rest)
	default:
		s.parameters = map[string]string{}
		for len(rest) > 1 { // an empty name ends them
			var name, value []byte
			name, rest = text(rest)
			value, rest = text(rest)
			s.parameters[string(name)] = string(value)
		}
	}
	return s, nil
}

// text cuts a text that ends with NUL off the front of b.
func text(b []byte) (value, rest []byte) {
	value, rest, _ = bytes.Cut(b, []byte{0})
	return value, rest
}

// appendMessage reads one message and appends it to b as it is. If the connection ends within it, what there was of
// it is appended all the same.
func appendMessage(b []byte, r *bufio.Reader) ([]byte, error) {
	header, err := r.Peek(headerSize)
	if err != nil {
		return append(b, header...), err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < headerSize-1 || length > maxMessage {
		return b, fmt.Errorf("a message %q of %d bytes", header[0], length)
	}
	start, size := len(b), 1+int(length)
	b = slices.Grow(b, size)[:start+size]
	n, err := io.ReadFull(r, b[start:])
	return b[:start+n], err
}
