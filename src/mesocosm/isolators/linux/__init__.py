"""Isolators of what Linux itself offers a process: capabilities, system calls, limits, devices."""
