package framecodec

// Reason is the close reason of a dialect 1 CloseConnection (one byte on the
// wire). SPEC.md section 2.
type Reason uint8

// The reasons of the reference system. Unknown numbers read as ReasonUnknown.
const (
	ReasonNormal                  Reason = 0
	ReasonError                   Reason = 1
	ReasonTimeout                 Reason = 2
	ReasonServerRefuse            Reason = 4
	ReasonClient                  Reason = 5
	ReasonUnknown                 Reason = 6
	ReasonInvalidInstruction      Reason = 7
	ReasonGuacdRefuse             Reason = 8
	ReasonConnectionLost          Reason = 9
	ReasonConnectionFailed        Reason = 10
	ReasonTunnelClosed            Reason = 11
	ReasonAdminClosed             Reason = 12
	ReasonErrorRecording          Reason = 13
	ReasonGuacdError              Reason = 14
	ReasonAIClosed                Reason = 15
	ReasonAddressResolutionFailed Reason = 16
	ReasonDecryptionFailed        Reason = 17
	ReasonConfigurationError      Reason = 18
	ReasonProtocolError           Reason = 19
	ReasonUpstreamClosed          Reason = 20
)

// Known reports whether r is one of the reference's numbers (3 is not).
func (r Reason) Known() bool { return r <= ReasonUpstreamClosed && r != 3 }

// Code returns the code that a reason sent by a dialect 1 peer stands for.
// ReasonNormal and ReasonConnectionLost on an opened connection mean an orderly
// end instead ("deliver all data, then FIN"): callers treat those two first.
func (r Reason) Code() Code {
	switch r {
	case ReasonNormal:
		return CodeNormal
	case ReasonTimeout:
		return CodeTimeout
	case ReasonServerRefuse:
		return CodeRefused
	case ReasonClient:
		return CodeCancelled
	case ReasonConnectionFailed:
		return CodeUnreachable
	case ReasonTunnelClosed:
		return CodeTunnelClosed
	case ReasonAdminClosed:
		return CodeClosedByAdmin
	case ReasonGuacdError:
		return CodeGuacdError
	case ReasonAddressResolutionFailed:
		return CodeResolveFailed
	case ReasonConfigurationError:
		return CodeUnknownTarget
	case ReasonProtocolError:
		return CodeProtocolError
	case ReasonUpstreamClosed:
		return CodeTargetClosed
	default:
		return CodeInternal
	}
}
