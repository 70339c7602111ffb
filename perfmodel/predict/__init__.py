"""Composition: formulas with the numbers of a description become a prediction and its breakdown."""
