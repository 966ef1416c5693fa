"""Selective Search (Uijlings et al. 2013), step by step."""
