"""tar archives: read as streams, written byte by byte alike."""
