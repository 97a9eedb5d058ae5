//go:build !unix

package main

func suspend(int)   {}
func resume(int)    {}
func terminate(int) {}
func quit(int)      {}

func killServerProcess(int) {}

const signals = "this system has no such signals"
