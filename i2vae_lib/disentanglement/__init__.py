"""How far latents hold what they are to hold."""
