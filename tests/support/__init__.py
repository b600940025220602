"""What the tests share: stores, runs and models that are made for them, and faults that are planted."""
