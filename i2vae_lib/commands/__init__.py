"""The commands of ``i2vae``."""
