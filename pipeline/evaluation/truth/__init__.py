"""How much of a toy's features an SAE has found: what is true of its rows against what the SAE says of them."""
