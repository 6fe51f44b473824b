package framecodec

import (
	"encoding/json"
	"testing"
)

func TestCodesByName(t *testing.T) {
	for n := range len(codes) {
		c := Code(n)
		if !c.Known() || c.String() == "" {
			t.Errorf("code %d has no name", n)
		}
		if back, ok := ParseCode(c.String()); !ok || back != c {
			t.Errorf("%v comes back as %v, %v", c, back, ok)
		}
		if !c.Reason().Known() {
			t.Errorf("%v has reason %d, which no peer knows", c, c.Reason())
		}
	}
}

func TestUnknownCodes(t *testing.T) {
	c := Code(len(codes))
	if c.Known() || Code(0xffff).Known() {
		t.Error("a code beyond the table is known")
	}
	if got := Code(1234).String(); got != "code_1234" {
		t.Errorf("got %q", got)
	}
	if c.Reason() != ReasonError || c.HTTPStatus() != 500 || c.SOCKSReply() != 1 || c.Fault() != FaultGateway {
		t.Errorf("an unknown code does not read as internal")
	}
	if _, ok := ParseCode("code_1234"); ok {
		t.Error("an unknown code was parsed")
	}
}

func TestCodesInJSON(t *testing.T) {
	b, err := json.Marshal(map[string]Code{"code": CodeTunnelLost})
	if err != nil || string(b) != `{"code":"tunnel_lost"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var back map[string]Code
	if err := json.Unmarshal(b, &back); err != nil || back["code"] != CodeTunnelLost {
		t.Errorf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"code":"nonsense"}`), &back); err == nil {
		t.Error("a code that is none was accepted")
	}
}
