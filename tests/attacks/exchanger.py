"""What a hostile container does to a volume it shares: swap two names as fast as it can, until it is killed.

python exchanger.py FOLDER NAME OTHER     prints a line once it is swapping
"""

from __future__ import annotations

import os
import sys

from mesocosm.linux import syscalls

RENAME_EXCHANGE = 2

if __name__ == "__main__":
    folder, name, other = sys.argv[1:]
    fd = os.open(folder, os.O_PATH)
    told = False
    while True:
        for _ in range(1000):
            syscalls.renameat2(fd, name, fd, other, RENAME_EXCHANGE)
        if not told:
            print("swapping", flush=True)
            told = True
