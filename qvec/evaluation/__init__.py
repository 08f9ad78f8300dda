"""What quantizing costs: recall, nDCG, milliseconds and bytes, measured on collections and on samples."""
