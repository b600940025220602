"""One SAE held by several processes, each with a part of its latents: what they tell each other, and how they cut."""
