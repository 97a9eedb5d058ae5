//go:build !linux

package main

// memoryLimits tells that there are none.
func memoryLimits() string { return "limits of memory are for Linux here" }

func takeMemory() {}
