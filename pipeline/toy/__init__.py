"""Made-up rows whose features are known, written as an ordinary store."""
