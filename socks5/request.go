package socks5

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Request is what a client asks for (RFC 1928 section 4).
type Request struct {
	Command Command
	Host    string // name of 1 to 255 bytes, or IPv4 or IPv6 text without brackets; otherwise unchecked
	Port    uint16
}

// ReadRequest reads a client's greeting and request from a new connection and
// answers the greeting. It reads no byte beyond the request, so rw can be handed
// on afterwards, and never more than 519 bytes. The caller has set a deadline,
// and answers the request with AppendReply.
//
// With an error the connection is to be closed; where the protocol has an answer
// to the fault it has been written. The error is a *NotSOCKS5Error, ErrNoMethod,
// a *RefusedError, io.EOF if the client went without a word, or wraps the error
// of rw (io.ErrUnexpectedEOF if the client went in the middle).
func ReadRequest(rw io.ReadWriter) (Request, error) {
	if err := negotiate(rw); err != nil {
		return Request{}, err
	}
	req, err := readRequest(rw)
	if err != nil {
		return Request{}, tell(rw, err)
	}
	return req, nil
}

// negotiate reads the greeting and answers it with the chosen method (RFC 1928
// section 3). The method's own exchange would follow; methodNone has none.
func negotiate(rw io.ReadWriter) error {
	var buf [255]byte
	n, err := io.ReadAtLeast(rw, buf[:2], 1)
	if err != nil {
		return err
	}
	// A client of another protocol may wait for us after one byte.
	if buf[0] != version {
		return &NotSOCKS5Error{Protocol: protocolOf(buf[0])}
	}
	if _, err := io.ReadFull(rw, buf[n:2]); err != nil {
		return cut("greeting", err)
	}
	methods := buf[:buf[1]]
	if _, err := io.ReadFull(rw, methods); err != nil {
		return cut("greeting", err)
	}
	chosen := methodUnacceptable
	if slices.Contains(methods, byte(methodNone)) {
		chosen = methodNone
	}
	if _, err := rw.Write([]byte{version, byte(chosen)}); err != nil {
		return fmt.Errorf("answering the SOCKS5 greeting: %w", err)
	}
	if chosen == methodUnacceptable {
		return ErrNoMethod
	}
	return nil
}

// readRequest reads the request to its last byte before it judges it, so that
// closing the connection behind the answer does not reset it.
func readRequest(r io.Reader) (Request, error) {
	// Version, command, reserved, address type, and the address's first byte,
	// which every type has.
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Request{}, cut("request", err)
	}
	if head[0] != version {
		return Request{}, refuse(GeneralFailure, "version "+strconv.Itoa(int(head[0])))
	}
	host, port, err := readAddress(r, addressType(head[3]), head[4])
	if err != nil {
		return Request{}, err
	}
	req := Request{Command: Command(head[1]), Host: host, Port: port}
	if req.Command != Connect {
		return Request{}, refuse(CommandNotSupported, req.Command.String())
	}
	return req, nil
}

// readAddress reads the rest of an address and the port behind it (RFC 1928
// sections 4 and 5).
func readAddress(r io.Reader, typ addressType, first byte) (host string, port uint16, err error) {
	var buf [255 + 2]byte
	var addr []byte // the address without the port, in buf
	have := 1       // bytes of addr that came as first
	switch typ {
	case addressIPv4:
		addr = buf[:4]
	case addressIPv6:
		addr = buf[:16]
	case addressName:
		addr, have = buf[:first], 0
	default:
		return "", 0, refuse(AddressTypeNotSupported, "address type "+strconv.Itoa(int(typ)))
	}
	buf[0] = first
	end := len(addr) + 2
	if _, err := io.ReadFull(r, buf[have:end]); err != nil {
		return "", 0, cut("request", err)
	}
	port = binary.BigEndian.Uint16(buf[len(addr):end])
	if typ != addressName {
		ip, _ := netip.AddrFromSlice(addr)
		return ip.String(), port, nil
	}
	if !validName(addr) {
		return "", 0, refuse(GeneralFailure, "host name that is empty, not UTF-8, or has spaces or control characters")
	}
	return string(addr), port, nil
}

// validName keeps out what no name has and what could break a log line or a
// message on the way; whether it can be resolved is for others to find out.
func validName(name []byte) bool {
	if len(name) == 0 || !utf8.Valid(name) {
		return false
	}
	for _, r := range string(name) {
		if unicode.IsControl(r) || unicode.IsSpace(r) {
			return false
		}
	}
	return true
}

// tell answers a request that was refused and returns the refusal.
func tell(w io.Writer, err error) error {
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	if _, werr := w.Write(AppendReply(nil, refused.Reply, netip.AddrPort{})); werr != nil {
		return fmt.Errorf("%w (and the client could not be told: %w)", err, werr)
	}
	return err
}

func refuse(r Reply, what string) error { return &RefusedError{Reply: r, What: what} }

// cut wraps the error of a read in the middle of a message.
func cut(what string, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading the SOCKS5 %s: %w", what, err)
}
