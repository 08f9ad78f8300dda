"""What quantizing costs: recall, nDCG, milliseconds and bytes, measured and not hoped for."""
