"""App Container images: manifests, archives, discovery."""
