"""Microscope images of tumour spheroids in, calibrated outlines and growth curves out."""

from importlib.metadata import version

__version__ = version("spheroseg")
