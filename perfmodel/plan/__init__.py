"""Decisions: planners enumerate, bound, solve and explain; they hold no formula and no description."""
