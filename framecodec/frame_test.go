package framecodec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

func TestParseFrame(t *testing.T) {
	hi := AppendFrame(nil, 1, 2, []byte("hi;"))
	for _, tc := range []struct {
		name    string
		in      []byte
		limit   int
		payload string
		n       int
		fault   int // offset of the SyntaxError, -1: none
	}{
		{"whole", hi, MaxPayload2, "hi;", 20, -1},
		{"more behind it", append(bytes.Clone(hi), hi...), MaxPayload2, "hi;", 20, -1},
		{"payload of exactly the limit", hi, 3, "hi;", 20, -1},
		{"payload above the limit", hi, 2, "", 0, 12},
		{"no payload allowed", hi, 0, "", 0, 12},
		{"limit below nothing", AppendFrame(nil, 1, 2, nil), -1, "", 0, 12},
		{"empty payload", AppendFrame(nil, 1, 2, nil), 0, "", 17, -1},
		{"wrong terminator", append(bytes.Clone(hi[:19]), ':'), MaxPayload2, "", 0, 19},
		{"length one too small", append([]byte(nil), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 'h', 'i', ';'), MaxPayload2, "", 0, 17},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, n, err := ParseFrame(tc.in, tc.limit)
			if n != tc.n {
				t.Errorf("%d bytes used, want %d", n, tc.n)
			}
			if tc.fault >= 0 {
				var se *SyntaxError
				if !errors.As(err, &se) || se.Offset != tc.fault {
					t.Fatalf("error %v, want a SyntaxError at byte %d", err, tc.fault)
				}
				if f.Payload != nil || f.Conn != 0 || f.Word != 0 {
					t.Errorf("an error came with a frame %+v", f)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.Conn != 1 || f.Word != 2 || string(f.Payload) != tc.payload {
				t.Errorf("frame %+v", f)
			}
			if cap(f.Payload) != len(f.Payload) {
				t.Error("growing the payload would overwrite the terminator")
			}
		})
	}
}

func TestParseFrameCutAtEveryByte(t *testing.T) {
	whole := AppendFrame(nil, 1, 1<<63, []byte("payload; with ; in it"))
	for n := range whole {
		want := len(whole)
		if n < HeaderSize {
			want = 0
		}
		f, got, err := ParseFrame(whole[:n:n], MaxPayload2)
		if !errors.Is(err, ErrShort) || got != want || f.Payload != nil {
			t.Errorf("%d of %d bytes: %+v, %d, %v; want ErrShort and %d", n, len(whole), f, got, err, want)
		}
	}
}

// A length is judged when the header is there, not when memory for it has been
// found.
func TestParseFrameJudgesLengthsAtOnce(t *testing.T) {
	for _, length := range []uint32{MaxPayload2 + 1, MaxPayload1 + 1, math.MaxInt32 - 16, math.MaxInt32, math.MaxInt32 + 1, math.MaxUint32} {
		header := make([]byte, HeaderSize)
		binary.BigEndian.PutUint32(header[12:], length)
		_, n, err := ParseFrame(header, MaxPayload2)
		var se *SyntaxError
		if !errors.As(err, &se) || n != 0 {
			t.Errorf("length %d: %d, %v", length, n, err)
		}
		if length > MaxPayload1 {
			if _, _, err := ParseFrame(header, MaxPayload1); !errors.As(err, &se) {
				t.Errorf("length %d in dialect 1: %v", length, err)
			}
		}
	}
}

func TestPutHeaderAroundAPayloadInPlace(t *testing.T) {
	for _, size := range []int{0, 1, 64, 65507, MaxPayload2} {
		payload := bytes.Repeat([]byte{Terminator}, size)
		b := make([]byte, HeaderSize+size+1)
		copy(b[HeaderSize:], payload)
		PutHeader(b, math.MaxUint32, math.MaxUint64, size)
		b[HeaderSize+size] = Terminator
		if !bytes.Equal(b, AppendFrame(nil, math.MaxUint32, math.MaxUint64, payload)) {
			t.Errorf("%d bytes: PutHeader and AppendFrame differ", size)
		}
		if len(b) > MaxFrame2 {
			t.Errorf("the largest payload makes a frame of %d bytes", len(b))
		}
	}
}

func TestParseControl(t *testing.T) {
	if _, _, err := ParseControl(make([]byte, MaxControl+1)); err == nil {
		t.Error("a control payload above 32 KiB was accepted")
	} else {
		checkSyntax(t, err, MaxControl+1)
	}
	if m, rest, err := ParseControl(make([]byte, MaxControl)); err != nil || m != 0 || len(rest) != MaxControl-2 {
		t.Errorf("a control payload of 32 KiB: %v, %d bytes, %v", m, len(rest), err)
	}
	if m, _, err := ParseControl([]byte{0x03, 0xe7}); err != nil || m.String() != "message_999" {
		t.Errorf("an unknown message is no error of the envelope: %v, %v", m, err)
	}
}

func TestFramesDoNotAllocate(t *testing.T) {
	whole := AppendFrame(nil, 1, 2, make([]byte, 1500))
	buffer := make([]byte, 0, len(whole))
	for name, f := range map[string]func(){
		"ParseFrame":        func() { _, _, _ = ParseFrame(whole, MaxPayload2) },
		"Parse":             func() { var f Frame; _, _ = f.Parse(whole, MaxPayload2) },
		"ParseFrame, short": func() { _, _, _ = ParseFrame(whole[:99], MaxPayload2) },
		"AppendFrame":       func() { AppendFrame(buffer, 1, 2, whole[HeaderSize:1516]) },
		"PutHeader":         func() { PutHeader(whole, 1, 2, 1500) },
		"ParseControl":      func() { _, _, _ = ParseControl(whole[HeaderSize:1516]) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func TestSyntaxErrorText(t *testing.T) {
	_, _, err := ParseFrame(make([]byte, 17), 0)
	if got, want := err.Error(), "frame without its terminator at byte 16"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
