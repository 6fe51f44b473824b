package framecodec

import (
	_ "embed"
	"encoding/hex"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

//go:embed SPEC.md
var spec string

// specTables returns the rows of all tables of SPEC.md with that header line.
func specTables(t *testing.T, header string) [][]string {
	t.Helper()
	var rows [][]string
	inside := false
	for line := range strings.Lines(spec) {
		line = strings.TrimSpace(line)
		switch {
		case line == header:
			inside = true
		case !strings.HasPrefix(line, "|"):
			inside = false
		case inside && !strings.HasPrefix(line, "|---"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("SPEC.md has no table %s", header)
	}
	return rows
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.ReplaceAll(s, ",", ""), 10, 64)
	if err != nil {
		t.Fatalf("%q in SPEC.md is not a number", s)
	}
	return n
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimPrefix(strings.Trim(s, "`"), "-"))
	if err != nil {
		t.Fatalf("%q in SPEC.md is not hex", s)
	}
	return b
}

// dataFrame is a vector that is no control message.
type dataFrame struct {
	conn    uint32
	payload string
}

const specTraceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// specFrames says what the first column of the vector tables means.
var specFrames = map[string]any{
	"Ping without a connection":                           Ping{},
	"Ping, connection 0":                                  Ping{HasConn: true},
	"Ping, connection 7, `abc`":                           Ping{HasConn: true, Conn: 7, Extra: []byte("abc")},
	"Pong, connection 0":                                  Pong{},
	"Pong, connection 7, `abc`":                           Pong{Conn: 7, Extra: []byte("abc")},
	"OpenConnection 1":                                    OpenConnection{Conn: 1},
	"OpenConnection 1 to a.io:443":                        OpenConnection{Conn: 1, HasTarget: true, Host: []byte("a.io"), Port: 443},
	"ConnectionOpened 1":                                  ConnectionOpened{Conn: 1},
	"data, connection 1, `hi;`":                           dataFrame{1, "hi;"},
	"SendEOF 1":                                           SendEOF{Conn: 1},
	"CloseConnection 1, Normal":                           CloseConnection{Conn: 1},
	"CloseConnection 1, ConnectionFailed, text `no`":      CloseConnection{Conn: 1, Reason: ReasonConnectionFailed, Text: []byte("no")},
	"empty data, connection 2":                            dataFrame{2, ""},
	"MetricsRequest":                                      MetricsRequest{},
	"MetricsResponse `{}`":                                MetricsResponse{JSON: []byte("{}")},
	"MetricsConfig `{}`":                                  MetricsConfig{JSON: []byte("{}")},
	"Ping, clock 1":                                       Ping{HasConn: true, Extra: []byte{7: 1}},
	"Pong, clock 1":                                       Pong{Extra: []byte{7: 1}},
	"Open 1, named target `ssh`, window 262,144":          Open{Conn: 1, Kind: KindNamed, Window: 262144, Host: []byte("ssh")},
	"Open 5, UDP 2001:db8::1 port 53, window 0":           Open{Conn: 5, Kind: KindUDP, Host: []byte("2001:db8::1"), Port: 53},
	"Opened 1, window 262,144":                            Opened{Conn: 1, Window: 262144},
	"Opened 3, window 0, address 192.0.2.1:443":           Opened{Conn: 3, TLVs: AppendTLV(nil, TLVAddress, []byte("192.0.2.1:443"))},
	"data, connection 1, offset 4,294,967,296, `hi;`":     dataFrame{1, "hi;"},
	"Window of the session: consumed 3, limit 16,777,219": Window{Consumed: 3, Limit: 16777219},
	"Finish 1 at 4,294,967,299":                           Finish{Conn: 1, Offset: 4294967299},
	"Reset 3, `refused`, text `no`":                       Reset{Conn: 3, Code: CodeRefused, Text: []byte("no")},
	"Reset 5, `cancelled`, no text":                       Reset{Conn: 5, Code: CodeCancelled},
	"GoAway, `draining`, 30,000 ms, text `reload`":        GoAway{Code: CodeDraining, Deadline: 30000, Text: []byte("reload")},
	"Close, `closed_by_admin`, text `für immer`":          Close{Code: CodeClosedByAdmin, Text: []byte("für immer")},
	"Expose stream service `nas`":                         Expose{Kind: KindNamed, Name: []byte("nas")},
	"Withdraw `nas`":                                      Withdraw{Name: []byte("nas")},
	"Exposed `nas`, accepted":                             Exposed{Name: []byte("nas")},
	"Exposed `nas`, `not_allowed`, text `taken`":          Exposed{Code: CodeNotAllowed, Name: []byte("nas"), Text: []byte("taken")},
	"datagram 7 of flow 5, `q`":                           dataFrame{5, "q"},
	"Open 2, service `nas` of a client, window 0, parameters `{}`": Open{
		Conn: 2, Kind: KindNamed, Host: []byte("nas"), TLVs: AppendTLV(nil, TLVParams, []byte("{}")),
	},
	"Window of stream 1: consumed 4,294,967,299, limit 4,295,229,443": Window{Conn: 1, Consumed: 4294967299, Limit: 4295229443},
	"Open 3, TCP a.io:443, window 65,536, interactive, traceparent": Open{
		Conn: 3, Kind: KindTCP, Window: 65536, Host: []byte("a.io"), Port: 443,
		TLVs: AppendTLV(AppendTLV(nil, TLVPriority, []byte{PriorityInteractive}), TLVTraceparent, []byte(specTraceparent)),
	},
	"Hello of a new client: version 2, payload 65,519, windows 262,144 and 16,777,216, features 5": Hello{
		Version: 2, MaxPayload: 65519, StreamWindow: 262144, SessionWindow: 16777216, Features: FeatureDatagrams | FeatureReverse,
	},
	"Hello of a gateway: version 3, payload 16,384, the least windows, all features, session id 000102…0f, extension 32767 `x`": Hello{
		Version: 3, MaxPayload: 16384, StreamWindow: MinStreamWindow, SessionWindow: MinSessionWindow,
		Features:  FeatureDatagrams | FeatureResume | FeatureReverse | FeatureLanes,
		SessionID: [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		TLVs:      AppendTLV(nil, 32767, []byte("x")),
	},
}

func TestSpecVectors(t *testing.T) {
	rows := specTables(t, "| frame | word | hex |")
	for _, row := range specTables(t, "| frame | hex |") {
		rows = append(rows, []string{row[0], "1700000000000", row[1]})
	}
	seen := map[string]bool{}
	covered := map[Message]bool{}
	for _, row := range rows {
		name, word, wire := row[0], number(t, row[1]), fromHex(t, row[2])
		want, ok := specFrames[name]
		if !ok || seen[name] {
			t.Errorf("vector %q is unknown to this test, or there twice", name)
			continue
		}
		seen[name] = true
		frame, n, err := ParseFrame(wire, MaxPayload2)
		if err != nil || n != len(wire) || frame.Word != word {
			t.Errorf("%s: %+v, %d of %d bytes, %v", name, frame, n, len(wire), err)
			continue
		}
		switch want := want.(type) {
		case dataFrame:
			if frame.Conn != want.conn || string(frame.Payload) != want.payload {
				t.Errorf("%s: read as %+v", name, frame)
			}
			if got := AppendFrame(nil, want.conn, word, []byte(want.payload)); string(got) != string(wire) {
				t.Errorf("%s: written as %x", name, got)
			}
		case encoder:
			msg, rest, err := ParseControl(frame.Payload)
			if err != nil || frame.Conn != 0 {
				t.Errorf("%s: connection %d, %v", name, frame.Conn, err)
				continue
			}
			covered[msg] = true
			got, err := kindNamed(t, msg.String()).parse(rest)
			if err != nil || diff(want, got) != "" {
				t.Errorf("%s: %v %s", name, err, diff(want, got))
			}
			if got := want.AppendFrame(nil, word); string(got) != string(wire) {
				t.Errorf("%s: written as %x", name, got)
			}
		}
	}
	for name := range specFrames {
		if !seen[name] {
			t.Errorf("SPEC.md has no vector %q", name)
		}
	}
	for _, k := range kinds {
		if !covered[k.msg] {
			t.Errorf("SPEC.md has no vector of %v", k.msg)
		}
	}
}

func TestSpecRefusedInput(t *testing.T) {
	for _, row := range specTables(t, "| input | read as | at | hex |") {
		in := fromHex(t, row[3])
		var err error
		switch row[1] {
		case "envelope":
			_, _, err = ParseFrame(in, MaxPayload2)
		case "control":
			_, _, err = ParseControl(in)
		default:
			_, err = kindNamed(t, row[1]).parse(in)
		}
		var se *SyntaxError
		if !errors.As(err, &se) || uint64(se.Offset) != number(t, row[2]) {
			t.Errorf("%s: %v, want a SyntaxError at byte %s", row[0], err, row[2])
		}
	}
}

func TestSpecMessages(t *testing.T) {
	rows := append(specTables(t, "| code | name | data | sent by | answered by |"), specTables(t, "| code | name | data |")...)
	if len(rows) != len(kinds) {
		t.Errorf("SPEC.md has %d messages, the code %d", len(rows), len(kinds))
	}
	for _, row := range rows {
		if m := Message(number(t, row[0])); m.String() != row[1] {
			t.Errorf("message %s is %s in SPEC.md and %v in the code", row[0], row[1], m)
		}
	}
}

func TestSpecCodes(t *testing.T) {
	rows := specTables(t, "| u16 | code | reason | SOCKS5 | HTTP | fault | again |")
	if len(rows) != len(codes) {
		t.Errorf("SPEC.md has %d codes, the code %d", len(rows), len(codes))
	}
	status := regexp.MustCompile(`^\d+`)
	for _, row := range rows {
		c := Code(number(t, row[0]))
		if "`"+c.String()+"`" != row[1] {
			t.Errorf("code %s is %s in SPEC.md and %v in the code", row[0], row[1], c)
			continue
		}
		httpStatus := 0
		if row[4] != "-" {
			httpStatus = int(number(t, status.FindString(row[4])))
			if http.StatusText(httpStatus) == "" {
				t.Errorf("%v: %d is not an HTTP status", c, httpStatus)
			}
		}
		again := map[bool]string{true: "yes", false: "no"}[c.Retryable()]
		if uint64(c.Reason()) != number(t, row[2]) || uint64(c.SOCKSReply()) != number(t, row[3]) ||
			c.HTTPStatus() != httpStatus || c.Fault() != row[5] || again != row[6] {
			t.Errorf("%v: SPEC.md says %v, the code %d, %d, %d, %s, %s", c, row[2:],
				c.Reason(), c.SOCKSReply(), c.HTTPStatus(), c.Fault(), again)
		}
	}
}

func TestSpecReasons(t *testing.T) {
	names := [...]string{
		ReasonNormal: "Normal", ReasonError: "Error", ReasonTimeout: "Timeout", ReasonServerRefuse: "ServerRefuse",
		ReasonClient: "Client", ReasonUnknown: "Unknown", ReasonInvalidInstruction: "InvalidInstruction",
		ReasonGuacdRefuse: "GuacdRefuse", ReasonConnectionLost: "ConnectionLost", ReasonConnectionFailed: "ConnectionFailed",
		ReasonTunnelClosed: "TunnelClosed", ReasonAdminClosed: "AdminClosed", ReasonErrorRecording: "ErrorRecording",
		ReasonGuacdError: "GuacdError", ReasonAIClosed: "AIClosed", ReasonAddressResolutionFailed: "AddressResolutionFailed",
		ReasonDecryptionFailed: "DecryptionFailed", ReasonConfigurationError: "ConfigurationError",
		ReasonProtocolError: "ProtocolError", ReasonUpstreamClosed: "UpstreamClosed",
	}
	known := map[Reason]bool{}
	for _, row := range specTables(t, "| u8 | reason | code |") {
		r := Reason(number(t, row[0]))
		known[r] = true
		if int(r) >= len(names) || names[r] != row[1] {
			t.Errorf("SPEC.md calls reason %d %s", r, row[1])
		}
		if "`"+r.Code().String()+"`" != row[2] {
			t.Errorf("reason %d reads as %v, SPEC.md says %s", r, r.Code(), row[2])
		}
	}
	for n := range 256 {
		if r := Reason(n); r.Known() != known[r] {
			t.Errorf("reason %d: known to the code %v, to SPEC.md %v", n, r.Known(), known[r])
		}
	}
}

func TestSpecExtensionsAndFeatures(t *testing.T) {
	types := map[uint16]string{
		TLVTraceparent: "trace context", TLVPriority: "priority",
		TLVAddress: "address", TLVParams: "parameters",
	}
	for _, row := range specTables(t, "| type | extension | value |") {
		if name := types[uint16(number(t, row[0]))]; name == "" || !strings.HasPrefix(row[1], name) {
			t.Errorf("extension %s is %q in SPEC.md, %q in the code", row[0], row[1], name)
		}
		delete(types, uint16(number(t, row[0])))
	}
	features := map[uint32]string{
		FeatureDatagrams: "datagrams", FeatureResume: "resume", FeatureReverse: "streams opened by the gateway", FeatureLanes: "lanes",
	}
	for _, row := range specTables(t, "| bit | feature |") {
		if name := features[uint32(number(t, row[0]))]; name == "" || !strings.HasPrefix(row[1], name) {
			t.Errorf("feature %s is %q in SPEC.md, %q in the code", row[0], row[1], name)
		}
		delete(features, uint32(number(t, row[0])))
	}
	if len(types)+len(features) > 0 {
		t.Errorf("not in SPEC.md: %v %v", types, features)
	}
}
