package socks5

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
)

// Request is what a client asks for (RFC 1928 section 4).
type Request struct {
	Command Command // Connect, or Associate where Options allow it

	// Host and Port are the target of CONNECT. For UDP ASSOCIATE they are where
	// the client says that its datagrams will come from; 0.0.0.0 or ::, or port 0,
	// if it does not know. Behind a translated address it knows it wrongly.
	Host string // name of 1 to 255 bytes, or IPv4 or IPv6 text without brackets; otherwise unchecked
	Port uint16 // may be 0

	// User is the name that Options.Authenticate has let in; any 1 to 255 bytes.
	// Empty if nobody was asked.
	User string
}

// negotiate reads the greeting and answers it with the one method that the
// server takes, if the client offers it (RFC 1928 section 3). The method's own
// exchange follows; methodNone has none.
func negotiate(rw io.ReadWriter, wanted method) error {
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
	if slices.Contains(methods, byte(wanted)) {
		chosen = wanted
	}
	if _, err := rw.Write([]byte{version, byte(chosen)}); err != nil {
		return fmt.Errorf("answering the SOCKS5 greeting: %w", err)
	}
	if chosen == methodUnacceptable {
		return ErrNoMethod
	}
	return nil
}

// readRequest reads a request, and answers one that is refused.
func readRequest(rw io.ReadWriter, associate bool) (Request, error) {
	req, err := parseRequest(rw, associate)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return Request{}, tell(rw, AppendReply(nil, refused.Reply, netip.AddrPort{}), err)
	}
	return req, err
}

// parseRequest reads the request to its last byte before it judges it, so that
// closing the connection behind the answer does not reset it.
func parseRequest(r io.Reader, associate bool) (Request, error) {
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
	if req.Command != Connect && (req.Command != Associate || !associate) {
		return Request{}, refuse(CommandNotSupported, req.Command.String())
	}
	return req, nil
}

// readAddress reads the rest of an address.
func readAddress(r io.Reader, typ addressType, first byte) (host string, port uint16, err error) {
	var buf [1 + 1 + 255 + 2]byte
	address := buf[:addressLength(typ, first)]
	if len(address) == 0 {
		return "", 0, refuse(AddressTypeNotSupported, "address type "+strconv.Itoa(int(typ)))
	}
	address[0], address[1] = byte(typ), first
	if _, err := io.ReadFull(r, address[2:]); err != nil {
		return "", 0, cut("request", err)
	}
	if !validAddress(address) {
		return "", 0, refuse(GeneralFailure, "host name that is empty, not UTF-8, or has spaces or control characters")
	}
	return hostOf(address), portOf(address), nil
}

// tell answers what was refused and returns the refusal.
func tell(w io.Writer, answer []byte, refusal error) error {
	if _, err := w.Write(answer); err != nil {
		return fmt.Errorf("%w (and the client could not be told: %w)", refusal, err)
	}
	return refusal
}

func refuse(r Reply, what string) error { return &RefusedError{Reply: r, What: what} }

// cut wraps the error of a read in the middle of a message.
func cut(what string, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading the SOCKS5 %s: %w", what, err)
}
