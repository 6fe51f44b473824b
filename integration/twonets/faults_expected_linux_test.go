package twonets

import "time"

// expectations is what each row of the table must see: committed first, then run.
// Where a fault has no end, recovery is the longest that anybody waited.
var expectations = map[string]expectation{
	"the target refuses":                                {application: "SOCKS reply 5", client: "refused", gateway: "refused", recovery: time.Second},
	"the target hangs":                                  {application: "SOCKS reply 6", client: "timeout", gateway: "timeout", recovery: time.Second},
	"the target resets in the middle":                   {application: "RST", client: "target_closed", gateway: "target_closed", recovery: time.Second},
	"the target ends its direction, the client goes on": {application: "EOF, then EOF", recovery: 5 * time.Second},
	"the client ends its direction, the target goes on": {application: "EOF, then EOF", recovery: 5 * time.Second},
	"the target trickles a byte a second":               {application: "goes on", recovery: time.Second},
	"the target never reads":                            {application: "goes on", recovery: time.Second},
	"the client never reads":                            {application: "goes on", recovery: time.Second},
	// Given up after about twice the keepalive; but the system does not wait less than
	// a second between retransmissions, of which there are 15 (decision 006).
	"the target's machine vanishes":                   {application: "RST", client: "timeout", gateway: "timeout", recovery: 20 * time.Second},
	"DNS answers after 1 s":                           {application: "connected", recovery: time.Second},
	"DNS does not answer":                             {application: "SOCKS reply 6", client: "timeout", gateway: "timeout", recovery: time.Second},
	"DNS answers another question":                    {application: "SOCKS reply 6", client: "timeout", gateway: "timeout", recovery: time.Second},
	"DNS knows no such name":                          {application: "SOCKS reply 4", client: "resolve_failed", gateway: "resolve_failed", recovery: time.Second},
	"DNS changes to an address of the gateway itself": {application: "SOCKS reply 2", client: "not_allowed", gateway: "not_allowed", recovery: time.Second},

	// SCTP tries again every 3 s at the most.
	"UDP is blocked for 5 s":      {application: "goes on", recovery: 4 * time.Second},
	"UDP is blocked for 20 s":     {application: "goes on", recovery: 4 * time.Second},
	"UDP is blocked for 60 s":     {application: "RST", client: "tunnel_lost", gateway: "tunnel_lost", recovery: 5 * time.Second},
	"1 % of the packets are lost": {application: "EOF, EOF", recovery: 3 * time.Second},
	"5 % of the packets are lost": {application: "EOF, EOF", recovery: 10 * time.Second},
	// pion's retransmission time-outs are 1 s at the least, and what comes behind a lost
	// packet waits for it: nobody works like this, but nothing is lost.
	"20 % of the packets are lost":      {application: "EOF, EOF", recovery: 90 * time.Second},
	"20 % of the packets are overtaken": {application: "EOF, EOF", recovery: time.Second},
	"20 % of the packets come twice":    {application: "EOF, EOF", recovery: time.Second},
	"an MTU of 1280 without ICMP":       {application: "EOF, EOF", recovery: time.Second},
	// Two keep-alives of silence, of 2 s each, and one more for the answer.
	"the client's port changes (NAT rebinding)":    {application: "goes on", recovery: 10 * time.Second},
	"the client's address changes (NAT rebinding)": {application: "goes on", recovery: 10 * time.Second},

	// ICE gives a silent peer up within 25 s.
	"gateway SIGKILL":          {application: "RST", client: "tunnel_lost", recovery: 30 * time.Second},
	"gateway SIGSTOP for 20 s": {application: "goes on", recovery: 4 * time.Second},
	"gateway SIGTERM":          {application: "RST", client: "draining", recovery: 10 * time.Second},
	"client SIGKILL":           {application: "RST", gateway: "tunnel_lost", recovery: 5 * time.Second},
	"client SIGSTOP for 20 s":  {application: "goes on", recovery: 4 * time.Second},
	"client SIGTERM":           {application: "RST", gateway: "tunnel_closed", recovery: 10 * time.Second},

	"no descriptors at the gateway":     {application: "SOCKS reply 1", client: "overloaded", gateway: "overloaded", recovery: 3 * time.Second},
	"no descriptors at the client":      {application: "RST", client: "overloaded", recovery: 3 * time.Second},
	"memory is short":                   {application: "offer answered 503 out_of_memory_budget", client: "cancelled", gateway: "cancelled, tunnel out_of_memory_budget, tunnel timeout?", recovery: 3 * time.Second},
	"the disk of the logs is full":      {application: "goes on", recovery: time.Second},
	"5,000 offers at once":              {application: "goes on", gateway: "tunnel timeout, tunnel too_many_tunnels", recovery: 3 * time.Second},
	"10,000 streams opened and dropped": {application: "goes on", client: "cancelled", gateway: "cancelled", recovery: 3 * time.Second},

	// The other tunnel's longest standstill, or how long it takes to be rid of the peer.
	"garbage on the UDP port":                       {application: "goes on", recovery: time.Second},
	"garbage in STUN and DTLS":                      {application: "EOF, EOF", recovery: time.Second},
	"garbage in SCTP":                               {application: "EOF", gateway: "tunnel timeout", recovery: 10 * time.Second},
	"garbage in frames":                             {application: "its channel is closed", recovery: 3 * time.Second},
	"a peer says no Hello":                          {application: "its channel is closed", recovery: 12 * time.Second},
	"a peer claims a huge window and reads nothing": {application: "target RST", gateway: "tunnel_closed", recovery: time.Second},
	"a peer sends frames of one byte":               {application: "target RST", gateway: "tunnel_closed", recovery: time.Second},
}
