#!/bin/sh
# Prints what this process sees of itself and its surroundings, for fixtures/view.py to read.
# Only built-ins and cat, ls, readlink: works in the busybox root and in Debian's.
section() { printf '\n== %s\n' "$1"; }
for name in status limits cgroup mountinfo oom_score_adj environ cmdline stat; do
    section "$name"
    cat "/proc/$$/$name"
done
section ns
for name in /proc/$$/ns/*; do printf '%s %s\n' "${name##*/}" "$(readlink "$name")"; done
section fd
# No command substitution: its pipe would be one more descriptor of the shell.
for name in /proc/$$/fd/*; do
    printf '%s ' "${name##*/}"
    readlink "$name" || echo
done
section cwd
readlink "/proc/$$/cwd"
section processes
for name in /proc/[0-9]*; do printf '%s %s\n' "${name##*/}" "$(readlink "$name/exe" 2>/dev/null)"; done
section root
ls -a /
section dev
ls -a /dev
section hostname
cat /proc/sys/kernel/hostname
section links
cat /proc/net/dev
section umask
umask
section end
