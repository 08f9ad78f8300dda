"""Learned bits: a linear projection in front of the sign, made from vectors alone, for the prefilter of a collection.

Rotations need numpy only; training needs torch (the extra `models`), imported when it begins.
"""
