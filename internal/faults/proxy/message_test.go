package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// packet is a first packet.
func packet(code uint32, rest string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	return append(binary.BigEndian.AppendUint32(b, code), rest...)
}

// message is any other.
func message(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

func TestTheFirstPacketIsRead(t *testing.T) {
	const version = 3 << 16
	for name, tt := range map[string]struct {
		packet     []byte
		parameters map[string]string
		pid        uint32
		fails      bool
	}{
		"parameters":               {packet: packet(version, "user\x00me\x00application_name\x00a b\x00\x00"), parameters: map[string]string{"user": "me", "application_name": "a b"}},
		"none":                     {packet: packet(version, "\x00"), parameters: map[string]string{}},
		"an empty value":           {packet: packet(version, "user\x00\x00\x00"), parameters: map[string]string{"user": ""}},
		"cut off within a name":    {packet: packet(version, "user"), parameters: map[string]string{"user": ""}},
		"a cancel request":         {packet: packet(codeCancel, "\x00\x00\x01\x02keys"), pid: 258},
		"one with a longer key":    {packet: packet(codeCancel, "\x00\x00\x01\x02"+strings.Repeat("k", 32)), pid: 258},
		"one without a key":        {packet: packet(codeCancel, "\x00\x00\x01\x02"), fails: true},
		"a request for TLS":        {packet: packet(codeTLS, "")},
		"too short to be one":      {packet: []byte{0, 0, 0, 4}, fails: true},
		"longer than it says":      {packet: append(packet(codeTLS, ""), "rest"...)},
		"shorter than it says":     {packet: packet(version, "user\x00me\x00\x00")[:10], fails: true},
		"longer than any could be": {packet: []byte{'G', 'E', 'T', ' '}, fails: true},
	} {
		s, err := readStartup(bytes.NewReader(tt.packet))
		if (err != nil) != tt.fails {
			t.Errorf("%s: got %v, want an error: %t", name, err, tt.fails)
		}
		if err == nil && (!cmp.Equal(s.parameters, tt.parameters) || s.pid != tt.pid) {
			t.Errorf("%s: got %q and pid %d, want %q and %d", name, s.parameters, s.pid, tt.parameters, tt.pid)
		}
	}
}

func TestMessagesAreReadAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		bodies := rapid.SliceOf(rapid.StringN(0, -1, 200)).Draw(t, "bodies")
		for _, body := range bodies {
			stream = append(stream, message('d', body)...)
		}
		end := rapid.IntRange(0, len(stream)).Draw(t, "end")
		r := bufio.NewReaderSize(bytes.NewReader(stream[:end]), 16)
		var got []byte
		var err error
		n := -1
		for ; err == nil; n++ {
			got, err = appendMessage(got, r)
		}
		if !bytes.Equal(got, stream[:end]) {
			t.Fatalf("got %q, want %q", got, stream[:end])
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("got %v, want the end", err)
		}
		if end == len(stream) && n != len(bodies) {
			t.Fatalf("got %d messages, want %d", n, len(bodies))
		}
	})
}

func TestAMessageOfAnImpossibleLengthIsRefused(t *testing.T) {
	for _, length := range []uint32{0, 3, maxMessage + 1, 1<<32 - 1} {
		header := binary.BigEndian.AppendUint32([]byte{'Q'}, length)
		if _, err := appendMessage(nil, bufio.NewReader(bytes.NewReader(append(header, "rest"...)))); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("length %d: got %v, want it refused", length, err)
		}
	}
}

// said is a message and what it is to be taken for.
type said struct {
	message    []byte
	sql        string
	runs, last bool
}

func TestStatementsAreFollowedByTheirNames(t *testing.T) {
	c := newConversation()
	for i, s := range []said{
		{message: message('p', "password\x00")},
		{message: message('P', "one\x00select 1\x00\x00\x00")},
		{message: message('D', "Sone\x00")},
		{message: message('S', ""), last: true},
		{message: message('B', "\x00one\x00\x00\x00")},
		{message: message('E', "\x00\x00\x00\x00\x00"), sql: "select 1", runs: true},
		{message: message('P', "\x00select 2\x00\x00\x00")},
		{message: message('B', "portal\x00\x00\x00\x00")},
		{message: message('E', "portal\x00\x00\x00\x00\x00"), sql: "select 2", runs: true},
		{message: message('E', "\x00\x00\x00\x00\x00"), sql: "select 1", runs: true},
		{message: message('C', "Pportal\x00")},
		{message: message('E', "portal\x00\x00\x00\x00\x00"), runs: true},
		{message: message('C', "Sone\x00")},
		{message: message('B', "\x00one\x00\x00\x00")},
		{message: message('E', "\x00\x00\x00\x00\x00"), runs: true},
		{message: message('S', ""), last: true},
		{message: message('Q', "select 3; select 4\x00"), sql: "select 3; select 4", runs: true, last: true},
		{message: message('d', "data")},
		{message: message('c', "")},
		{message: message('X', "")},
	} {
		sql, runs, last := c.ask(s.message)
		if sql != s.sql || runs != s.runs || last != s.last {
			t.Errorf("message %d, %q: got %q, %t, %t, want %q, %t, %t", i, s.message, sql, runs, last, s.sql, s.runs, s.last)
		}
		if last {
			c.sent()
		}
	}
	if len(c.pending) != 4 {
		t.Errorf("got %d units that wait for an answer, want the log-in and 3", len(c.pending))
	}
}

func TestAUnitIsCommittedWhenTheServerIsReadyAndIdleAndNothingFailed(t *testing.T) {
	ready := func(state string) []byte { return message('Z', state) }
	for name, tt := range map[string]struct {
		answer    [][]byte
		committed bool
	}{
		"done":                          {[][]byte{message('C', "INSERT 0 1\x00"), ready("I")}, true},
		"committed":                     {[][]byte{message('C', "COMMIT\x00"), ready("I")}, true},
		"within a transaction":          {[][]byte{message('C', "INSERT 0 1\x00"), ready("T")}, false},
		"failed":                        {[][]byte{message('E', "\x00"), ready("I")}, false},
		"failed within a transaction":   {[][]byte{message('E', "\x00"), ready("E")}, false},
		"a commit that became rollback": {[][]byte{message('C', "ROLLBACK\x00"), ready("I")}, false},
		"a notice and a notification":   {[][]byte{message('N', "\x00"), message('A', ""), ready("I")}, true},
	} {
		c := newConversation()
		c.hear(ready("I")) // the log-in
		c.ask(message('Q', "insert\x00"))
		asked := c.open
		c.sent()
		c.ask(message('Q', "the next\x00"))
		c.sent()
		for i, m := range tt.answer {
			u, last, committed := c.hear(m)
			if u != asked {
				t.Errorf("%s: message %d is taken for one about another unit", name, i)
			}
			if last != (i == len(tt.answer)-1) || committed != (last && tt.committed) {
				t.Errorf("%s: message %d: got last %t, committed %t, want committed at the end: %t", name, i, last, committed, tt.committed)
			}
		}
		if len(c.pending) != 1 {
			t.Errorf("%s: got %d units that wait, want 1", name, len(c.pending))
		}
	}
}

func FuzzStartup(f *testing.F) {
	f.Add(packet(3<<16, "user\x00me\x00\x00"))
	f.Add(packet(codeCancel, "12345678"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readStartup(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, s.raw) {
			t.Errorf("got %q to pass on, want the beginning of %q", s.raw, b)
		}
	})
}

func FuzzConversation(f *testing.F) {
	f.Add([]byte("\x01P\x02ab\x00E\x01\x00\x00S\x00\x01Z\x01I"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		c := newConversation()
		for len(b) >= 2 {
			fromServer, kind := b[0]%2 == 1, b[1]
			size := min(int(b[0]/2), len(b)-2)
			m := message(kind, string(b[2:2+size]))
			b = b[2+size:]
			if fromServer {
				c.hear(m)
			} else if _, _, last := c.ask(m); last {
				c.sent()
			}
		}
	})
}
