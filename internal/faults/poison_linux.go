package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// memoryLimits tells that there are such.
func memoryLimits() string { return "" }

// takeMemory takes memory until there is none left, which is soon: what the process may have is limited first. Then it is
// killed, as the kernel would do with a process that is over the limit of its group.
func takeMemory() {
	const more, piece = 256 << 20, 1 << 20
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_AS, &limit); err == nil {
		limit.Cur = addressSpace() + more
		_ = syscall.Setrlimit(syscall.RLIMIT_AS, &limit)
	}
	for range 2 * more / piece {
		memory, err := syscall.Mmap(-1, 0, piece, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			break
		}
		for i := 0; i < len(memory); i += os.Getpagesize() {
			memory[i] = 1
		}
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it takes effect
}

// addressSpace is what the process has reserved, in bytes; most of it is not in use.
func addressSpace() uint64 {
	text, _ := os.ReadFile("/proc/self/statm")
	pages, _, _ := strings.Cut(string(text), " ")
	n, _ := strconv.ParseUint(pages, 10, 64)
	return n * uint64(os.Getpagesize())
}
