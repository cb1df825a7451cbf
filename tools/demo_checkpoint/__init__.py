"""Builds the demo checkpoint that ships with Octet: draws its data, trains, quantizes, exports and
judges it.
"""
