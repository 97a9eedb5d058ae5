//go:build !linux

package journal

import "time"

// Now is the time in ns since 1970. Unlike Linux's monotonic clock, it jumps when someone sets it.
func Now() int64 { return time.Now().UnixNano() }
