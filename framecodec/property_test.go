package framecodec

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Any message that may be sent comes back as it was, alone and in the middle of
// a byte stream.

var (
	anyConn  = rapid.Uint32()
	anyBytes = rapid.SliceOfN(rapid.Byte(), 0, 300)
	anyHost  = rapid.SliceOfN(rapid.Byte(), 0, MaxHost)
	anyText  = rapid.Map(rapid.StringN(0, 256, MaxText), func(s string) []byte { return []byte(strings.ToValidUTF8(s, "?")) })
	anyCode  = rapid.Map(rapid.Uint16(), func(n uint16) Code { return Code(n) })
)

var anyReason = rapid.Map(rapid.Uint8Range(0, 20), func(n uint8) Reason {
	if r := Reason(n); r.Known() {
		return r
	}
	return ReasonUnknown
})

var anyTLVs = rapid.Custom(func(t *rapid.T) TLVs {
	var list TLVs
	for range rapid.IntRange(0, 4).Draw(t, "extensions") {
		switch typ := rapid.Uint16Range(0, 6).Draw(t, "type"); typ {
		case TLVPriority:
			list = AppendTLV(list, typ, []byte{rapid.Byte().Draw(t, "priority")})
		case TLVTraceparent, TLVAddress, TLVParams:
			list = AppendTLV(list, typ, anyText.Draw(t, "text"))
		default:
			list = AppendTLV(list, typ, anyBytes.Draw(t, "value"))
		}
	}
	return list
})

var anyMessage = map[Message]func(t *rapid.T) encoder{
	MsgPing: func(t *rapid.T) encoder {
		if rapid.Bool().Draw(t, "bare") {
			return Ping{}
		}
		return Ping{HasConn: true, Conn: anyConn.Draw(t, "conn"), Extra: anyBytes.Draw(t, "extra")}
	},
	MsgPong: func(t *rapid.T) encoder {
		return Pong{Conn: anyConn.Draw(t, "conn"), Extra: anyBytes.Draw(t, "extra")}
	},
	MsgOpenConnection: func(t *rapid.T) encoder {
		if rapid.Bool().Draw(t, "bare") {
			return OpenConnection{Conn: anyConn.Draw(t, "conn")}
		}
		return OpenConnection{Conn: anyConn.Draw(t, "conn"), HasTarget: true, Host: anyHost.Draw(t, "host"), Port: rapid.Uint16().Draw(t, "port")}
	},
	MsgCloseConnection: func(t *rapid.T) encoder {
		return CloseConnection{Conn: anyConn.Draw(t, "conn"), Reason: anyReason.Draw(t, "reason"), Text: anyText.Draw(t, "text")}
	},
	MsgConnectionOpened: func(t *rapid.T) encoder { return ConnectionOpened{Conn: anyConn.Draw(t, "conn")} },
	MsgSendEOF:          func(t *rapid.T) encoder { return SendEOF{Conn: anyConn.Draw(t, "conn")} },
	MsgMetricsRequest:   func(*rapid.T) encoder { return MetricsRequest{} },
	MsgMetricsResponse:  func(t *rapid.T) encoder { return MetricsResponse{JSON: anyBytes.Draw(t, "json")} },
	MsgMetricsConfig:    func(t *rapid.T) encoder { return MetricsConfig{JSON: anyBytes.Draw(t, "json")} },
	MsgHello: func(t *rapid.T) encoder {
		return Hello{
			Version:       rapid.Uint16Min(Version).Draw(t, "version"),
			MaxPayload:    rapid.Uint32Min(1).Draw(t, "payload"),
			StreamWindow:  rapid.Uint32Min(MinStreamWindow).Draw(t, "stream"),
			SessionWindow: rapid.Uint64Min(MinSessionWindow).Draw(t, "session"),
			Features:      rapid.Uint32().Draw(t, "features"),
			SessionID:     [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
			TLVs:          anyTLVs.Draw(t, "tlvs"),
		}
	},
	MsgWindow: func(t *rapid.T) encoder {
		return Window{Conn: anyConn.Draw(t, "conn"), Consumed: rapid.Uint64().Draw(t, "consumed"), Limit: rapid.Uint64().Draw(t, "limit")}
	},
	MsgOpen: func(t *rapid.T) encoder {
		return Open{
			Conn: anyConn.Draw(t, "conn"), Kind: rapid.Uint8().Draw(t, "kind"), Window: rapid.Uint32().Draw(t, "window"),
			Host: anyHost.Draw(t, "host"), Port: rapid.Uint16().Draw(t, "port"), TLVs: anyTLVs.Draw(t, "tlvs"),
		}
	},
	MsgOpened: func(t *rapid.T) encoder {
		return Opened{Conn: anyConn.Draw(t, "conn"), Window: rapid.Uint32().Draw(t, "window"), TLVs: anyTLVs.Draw(t, "tlvs")}
	},
	MsgReset: func(t *rapid.T) encoder {
		return Reset{Conn: anyConn.Draw(t, "conn"), Code: anyCode.Draw(t, "code"), Text: anyText.Draw(t, "text")}
	},
	MsgFinish: func(t *rapid.T) encoder {
		return Finish{Conn: anyConn.Draw(t, "conn"), Offset: rapid.Uint64().Draw(t, "offset")}
	},
	MsgGoAway: func(t *rapid.T) encoder {
		return GoAway{Code: anyCode.Draw(t, "code"), Deadline: rapid.Uint32().Draw(t, "deadline"), Text: anyText.Draw(t, "text")}
	},
	MsgClose: func(t *rapid.T) encoder {
		return Close{Code: anyCode.Draw(t, "code"), Text: anyText.Draw(t, "text")}
	},
	MsgExpose: func(t *rapid.T) encoder {
		return Expose{Kind: rapid.Uint8().Draw(t, "kind"), Name: anyHost.Draw(t, "name")}
	},
	MsgWithdraw: func(t *rapid.T) encoder { return Withdraw{Name: anyHost.Draw(t, "name")} },
	MsgExposed: func(t *rapid.T) encoder {
		return Exposed{Code: anyCode.Draw(t, "code"), Name: anyHost.Draw(t, "name"), Text: anyText.Draw(t, "text")}
	},
}

func TestAnyMessageComesBack(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.msg.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				want := anyMessage[k.msg](t)
				got, err := k.parse(data(want))
				if err != nil {
					t.Fatalf("%+v: %v", want, err)
				}
				if d := diff(want, got); d != "" {
					t.Fatal(d)
				}
			})
		})
	}
}

// A byte stream is cut into reads anywhere; the frames come out all the same.
func TestAnyStreamOfFramesComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var wire []byte
		var want []Frame
		for range rapid.IntRange(1, 8).Draw(t, "frames") {
			f := Frame{Conn: anyConn.Draw(t, "conn"), Word: rapid.Uint64().Draw(t, "word"), Payload: anyBytes.Draw(t, "payload")}
			want = append(want, f)
			wire = AppendFrame(wire, f.Conn, f.Word, f.Payload)
		}
		var buffer []byte
		got := 0
		for len(wire) > 0 {
			n := rapid.IntRange(1, len(wire)).Draw(t, "read")
			buffer, wire = append(buffer, wire[:n]...), wire[n:]
			for {
				f, used, err := ParseFrame(buffer, MaxPayload2)
				if errors.Is(err, ErrShort) {
					if used != 0 && used <= len(buffer) {
						t.Fatalf("%d bytes are said to be needed of a frame, %d are there", used, len(buffer))
					}
					break
				}
				if err != nil || got == len(want) {
					t.Fatalf("frame %d: %v", got, err)
				}
				if w := want[got]; f.Conn != w.Conn || f.Word != w.Word || string(f.Payload) != string(w.Payload) {
					t.Fatalf("frame %d: %+v, want %+v", got, f, w)
				}
				buffer = buffer[used:]
				got++
			}
		}
		if got != len(want) || len(buffer) != 0 {
			t.Fatalf("%d of %d frames, %d bytes left", got, len(want), len(buffer))
		}
	})
}
