//go:build unix

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestCompletionInTheShells(t *testing.T) {
	d := newDatabase(t)
	for _, name := range []string{"apples", "apricots", "pears", "x/y/json"} {
		d.must("put", name, "1")
	}
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, dir+"/pq-dispatch"); err != nil {
		t.Fatal(err)
	}
	// Each script completes its arguments, the last of which is begun, and prints a candidate a line.
	for shell, script := range map[string]string{
		// bash-completion may not be there: this is what the generated script takes from it.
		"bash": `_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; prev=${COMP_WORDS[COMP_CWORD-1]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
			__ltrim_colon_completions() { :; }
			unset -f _init_completion 2>/dev/null
			compopt() { :; }
			source <(pq-dispatch completion bash)
			COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
			__start_pq-dispatch
			printf '%s\n' "${COMPREPLY[@]}"`,
		"zsh": `compdef() { :; }
			_describe() { local -a found; while [[ $1 == -* ]]; do shift; done; [[ $1 == (-V|keep-order) ]] && shift; found=("${(@P)2}"); print -rl -- "${found[@]%%:*}"; }
			_arguments() { :; }
			_files() { :; }
			compadd() { :; }
			eval "$(pq-dispatch completion zsh)"
			words=("$@"); CURRENT=$#
			_pq-dispatch`,
		"fish": `pq-dispatch completion fish | source
			complete --do-complete "$(string join ' ' -- $argv)" | string replace -r '\t.*' ''`,
	} {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skip(err)
			}
			for line, want := range map[string]string{
				"pq-dispatch do":           "doctor",
				"pq-dispatch pause ap":     "apples apricots",
				"pq-dispatch queues ap":    "apples apricots",
				"pq-dispatch ls --queue p": "pears",
				"pq-dispatch queues x/":    "x/y/json",
				"pq-dispatch migrate st":   "status",
				"pq-dispatch top --inter":  "--interval",
			} {
				words := strings.Fields(line)
				arguments := append([]string{"-c", script}, words...)
				if shell != "fish" {
					arguments = append([]string{"-c", script, shell}, words...)
				}
				cmd := exec.CommandContext(t.Context(), path, arguments...)
				cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), envProgram+"=1", envURL+"="+d.url, "HOME="+dir, "XDG_CONFIG_HOME="+dir,
					"GORACE=atexit_sleep_ms=0") // else the race detector has each process wait a second before it ends
				output, err := cmd.CombinedOutput()
				if got := strings.Join(strings.Fields(string(output)), " "); got != want {
					t.Errorf("%s: got %q (%v), want %q", line, got, err, want)
				}
			}
		})
	}
}
