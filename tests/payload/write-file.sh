#!/bin/sh
# write-file.sh PATH TEXT: writes it and reads it back.
printf '%s\n' "$2" >"$1" && cat "$1"
