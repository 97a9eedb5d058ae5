package store

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Codec turns a value into bytes and back. Bytes that are not JSON travel in the data column as a
// JSON string in base64.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// Plain JSON is the codec nil: what it makes is the data itself.
var builtins = map[string]Codec{"json": nil, "gob": gobCodec{}}

func withBuiltins(registered map[string]Codec) map[string]Codec {
	codecs := maps.Clone(builtins)
	maps.Copy(codecs, registered)
	return codecs
}

type gobCodec struct{}

func (gobCodec) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobCodec) Unmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

const maxQueueName = 200 // bytes

// Plain returns the queue of that name in the table, whatever slashes it has, and without a codec: for what lists
// queues, where the name was not given by whoever chose the codec. Use its Err to check the name.
func (s *Store) Plain(name string) *Queue {
	q := &Queue{store: s, name: name, err: s.err}
	if q.err == nil {
		q.err = checkName(name)
	}
	return q
}

// parseName splits "apples/gob" into the queue's name and its codec.
func (s *Store) parseName(name string) (string, Codec, error) {
	if s.err != nil {
		return name, nil, s.err
	}
	var codec Codec
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		suffix := name[i+1:]
		known := false
		if codec, known = s.codecs[suffix]; !known {
			return name, nil, fmt.Errorf("store: %w %.40q in the queue name %.80q: known are %s; add /json to the name of a queue that has the slash itself",
				ErrCodec, suffix, name, strings.Join(slices.Sorted(maps.Keys(s.codecs)), ", "))
		}
		name = name[:i]
	}
	if err := checkName(name); err != nil {
		return name, nil, err
	}
	return name, codec, nil
}

// checkName refuses what no queue of the table can be called.
func checkName(name string) error {
	var wrong string
	switch {
	case name == "":
		wrong = "it is empty"
	case len(name) > maxQueueName:
		wrong = fmt.Sprintf("it has %d bytes; use at most %d", len(name), maxQueueName)
	case !utf8.ValidString(name):
		wrong = "it is not valid UTF-8"
	case strings.ContainsRune(name, 0):
		wrong = "it contains NUL"
	default:
		return nil
	}
	return fmt.Errorf("store: %w %.80q: %s", ErrQueueName, name, wrong)
}

// encode turns a value into the JSON of the data column, or says why the column could not hold it.
func (q *Queue) encode(v any) ([]byte, error) {
	if q.codec != nil {
		raw, err := q.codec.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrData, err)
		}
		v = base64.StdEncoding.EncodeToString(raw)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrData, err)
	}
	limit := q.store.options.MaxSize
	if len(data) > limit {
		return nil, tooLarge(len(data), limit)
	}
	size, err := checkJSON(data)
	if err == nil && size > limit {
		err = tooLarge(size, limit)
	}
	if err != nil {
		return nil, err
	}
	return data, checkValue(v, data)
}

func tooLarge(size, limit int) error {
	return fmt.Errorf("%w: %d bytes, the limit is %d (store.Options.MaxSize); store it elsewhere and put a reference to it",
		ErrTooLarge, size, limit)
}

// decode reads the JSON of the data column. What it cannot read, no retry can.
func decode(codec Codec, data []byte, v any) error {
	err := unmarshal(codec, data, v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDecode, err)
	}
	return nil
}

func unmarshal(codec Codec, data []byte, v any) error {
	if codec == nil {
		return json.Unmarshal(data, v)
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("not a string of base64, as its codec makes: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	return codec.Unmarshal(raw, v)
}
