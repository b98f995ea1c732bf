#!/bin/sh
# Says that it is ready, then lives until standard input ends or a signal comes; reports SIGTERM and SIGUSR1.
trap 'echo got TERM; exit 0' TERM
trap 'echo got USR1; exit 0' USR1
echo ready
read -r _
