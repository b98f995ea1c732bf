#!/usr/bin/python3
"""fork_bomb.py N: forks up to N children that only wait; prints how many there were and what stopped it."""

import json
import os
import signal
import sys

children = []
stopped_by = None
for _ in range(int(sys.argv[1])):
    try:
        pid = os.fork()
    except OSError as error:
        stopped_by = error.strerror
        break
    if pid == 0:
        signal.pause()
        os._exit(0)
    children.append(pid)
print(json.dumps({"forked": len(children), "stopped_by": stopped_by}), flush=True)
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
