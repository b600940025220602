"""First-letter absorption: a latent of a letter stays silent because latents of single words write the letter too."""
