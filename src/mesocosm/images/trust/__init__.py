"""Which images may be fetched and started: policy, signatures, and the proof that is kept."""
