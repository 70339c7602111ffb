"""What-if: a question as a value that changes, many of them as a table, two of them side by side."""
