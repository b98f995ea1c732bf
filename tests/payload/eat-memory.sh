#!/bin/sh
# eat-memory.sh MIB: touches that much anonymous memory at once, then says so.
dd if=/dev/zero of=/dev/null bs="$1M" count=1 2>/dev/null && echo "ate $1 MiB"
