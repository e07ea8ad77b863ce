"""Continual learning with parameter-efficient modules."""
