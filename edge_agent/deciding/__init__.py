"""What becomes of a sample: pure rules, held to be so by import-linter."""
