"""EROFS files: written in one pass, read without mounting, merged."""
