"""Microcode cases: a boot for each thing that can be the matter with an update, predicted, observed and compared.

On virtual processors: that proves the loader, not the processor.
"""
