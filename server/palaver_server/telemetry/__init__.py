"""Observation of a running server: the call log, metrics and traces.

Metrics and traces are optional, and their libraries are imported only if they are configured.
"""
