"""Built-in backbones, one file each; the registry finds them by folder."""
