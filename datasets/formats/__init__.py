"""Annotation formats: one module for each, one registry."""
