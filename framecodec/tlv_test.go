package framecodec

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

func TestTLVs(t *testing.T) {
	list := AppendTLV(nil, TLVAddress, []byte("192.0.2.1:22"))
	list = AppendTLV(list, 0xffff, nil)
	list = AppendTLV(list, TLVPriority, []byte{1})
	list = AppendTLV(list, TLVPriority, []byte{2})

	var types []uint16
	for rest := list; len(rest) > 0; {
		typ, value, next, err := rest.Next()
		if err != nil || value == nil || cap(value) != len(value) {
			t.Fatalf("type %d: value %v, error %v", typ, value, err)
		}
		types, rest = append(types, typ), next
	}
	if want := []uint16{TLVAddress, 0xffff, TLVPriority, TLVPriority}; !slices.Equal(types, want) {
		t.Errorf("types %v, want %v", types, want)
	}
	if v, ok := list.Get(TLVPriority); !ok || !bytes.Equal(v, []byte{1}) {
		t.Errorf("of two the first holds: %v, %v", v, ok)
	}
	if v, ok := list.Get(0xffff); !ok || len(v) != 0 {
		t.Errorf("an empty value is there: %v, %v", v, ok)
	}
	if v, ok := list.Get(TLVTraceparent); ok {
		t.Errorf("found %v, which is not there", v)
	}
}

func TestTLVsNextAtTheEnd(t *testing.T) {
	if typ, value, rest, err := TLVs(nil).Next(); typ != 0 || value != nil || rest != nil || err != nil {
		t.Errorf("an empty list gave %d %v %v %v", typ, value, rest, err)
	}
	whole := AppendTLV(nil, TLVAddress, []byte("ab"))
	for n := 1; n < len(whole); n++ {
		_, _, _, err := whole[:n].Next()
		checkSyntax(t, err, n)
		if v, ok := whole[:n].Get(TLVAddress); ok {
			t.Errorf("%d bytes of an extension gave %v", n, v)
		}
	}
}

// Values of a known type follow its rule; others may be anything.
func TestTLVValuesAreChecked(t *testing.T) {
	long := bytes.Repeat([]byte("x"), MaxText+1)
	for _, tc := range []struct {
		typ   uint16
		value []byte
		ok    bool
	}{
		{TLVTraceparent, []byte("00-aa-bb-01"), true},
		{TLVTraceparent, nil, true},
		{TLVTraceparent, []byte{0xff}, false},
		{TLVTraceparent, long, false},
		{TLVPriority, []byte{200}, true},
		{TLVPriority, nil, false},
		{TLVPriority, []byte{1, 1}, false},
		{TLVAddress, []byte("ä"), true},
		{TLVAddress, []byte{0xc3}, false},
		{TLVAddress, long[1:], true},
		{TLVParams, []byte(`{"a":"b"}`), true},
		{TLVParams, []byte{0xc0, 0xaf}, false},
		{TLVParams, long, false},
		{0, []byte{0xff}, true},
		{5, append(long, 0xff), true},
	} {
		list := append(TLVs(nil), byte(tc.typ>>8), byte(tc.typ), byte(len(tc.value)>>8), byte(len(tc.value)))
		list = append(list, tc.value...)
		before := AppendTLV(nil, 99, []byte("first"))
		in := data(Opened{Conn: 1, TLVs: append(before, list...)})
		got, err := ParseOpened(in)
		if tc.ok {
			if v, found := got.TLVs.Get(tc.typ); err != nil || !found || !bytes.Equal(v, tc.value) {
				t.Errorf("type %d, %d bytes: %v", tc.typ, len(tc.value), err)
			}
			continue
		}
		if err == nil {
			t.Errorf("type %d, value %.10q of %d bytes was accepted", tc.typ, tc.value, len(tc.value))
			continue
		}
		checkSyntax(t, err, len(in))
		if se, ok := errors.AsType[*SyntaxError](err); ok && se.Offset != openedSize+len(before) {
			t.Errorf("type %d: fault at byte %d, want the extension's start", tc.typ, se.Offset)
		}
	}
}

func TestAppendTLVLeavesOutWhatNoPeerAccepts(t *testing.T) {
	for _, size := range []int{MaxText + 1, 65536, 70000} {
		if got := AppendTLV(nil, TLVParams, make([]byte, size)); len(got) != 0 {
			t.Errorf("%d bytes: %d appended", size, len(got))
		}
	}
	if got := AppendTLV(nil, TLVParams, make([]byte, MaxText)); len(got) != 4+MaxText {
		t.Errorf("the longest value: %d appended", len(got))
	}
}
