#!/usr/bin/python3
"""compute.py FOLDER: computes, writes files, reads them back; prints a digest that never varies."""

import hashlib
import json
import os
import sys

folder = sys.argv[1]
digest = hashlib.sha256()
state = 12345
for number in range(16):
    state = state * 1103515245 + 12345 & 0x7FFFFFFF
    path = os.path.join(folder, f"part-{number}")
    with open(path, "wb") as file:
        file.write(state.to_bytes(4, "big") * (1 << number))
    with open(path, "rb") as file:
        digest.update(file.read())
print(json.dumps({"digest": digest.hexdigest(), "files": len(os.listdir(folder))}))
