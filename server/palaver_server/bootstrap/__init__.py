"""Assembly: builds every part of a server from the settings, starts the parts and stops them.

Only this package and `cli` read `Settings`; all other packages take plain values.
"""
