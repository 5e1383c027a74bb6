"""Integers: calibration, quantisation, and which layers do not bear it."""
