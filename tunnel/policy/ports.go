package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// ports is a set of ports as ranges; nil means every port.
type ports []portRange

type portRange struct{ low, high uint16 }

func (p ports) contains(port uint16) bool {
	if p == nil {
		return true
	}
	for _, r := range p {
		if r.low <= port && port <= r.high {
			return true
		}
	}
	return false
}

// parsePorts reads 22,8000-8100.
func parsePorts(s string) (ports, error) {
	var out ports
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		r := portRange{}
		var err error
		if r.low, err = parsePort(low); err == nil {
			r.high, err = parsePort(high)
		}
		if err != nil {
			return nil, fmt.Errorf("ports %q: %w", s, err)
		}
		if r.high < r.low {
			return nil, fmt.Errorf("ports %q: write the range %s the other way round", s, part)
		}
		out = append(out, r)
	}
	return out, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' || s[0] == '0' {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}
