"""What `make run` runs: look around inside the container, and do a little work within its limits."""

import os
import socket
import time
from pathlib import Path

started = time.monotonic()
primes = [n for n in range(2, 60_000) if all(n % d for d in range(2, int(n**0.5) + 1))]
processes = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
found = Path("/tmp/primes")
found.parent.mkdir(exist_ok=True)
found.write_text("".join(f"{n}\n" for n in primes))

print(f"hello from {socket.gethostname()}, process {os.getpid()} of {processes}, user {os.getuid()}")
print(f"interfaces: {', '.join(name for _, name in socket.if_nameindex()) or 'none'}")
print(f"{len(primes)} primes, the last {primes[-1]}, in {time.monotonic() - started:.2f} s")
print(f"wrote {found}, {found.stat().st_size} bytes, which the host will never see")
