"""Questions about predictions: what they say in words, and which value of a quantity makes them so."""
