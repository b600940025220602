"""What the language model does with a reconstruction in the place of its rows, and rows of labelled texts."""
