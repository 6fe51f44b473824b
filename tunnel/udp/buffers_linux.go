package udp

// The settings that bound what a socket may ask for.
const (
	readSetting  = "sysctl net.core.rmem_max"
	writeSetting = "sysctl net.core.wmem_max"
)
