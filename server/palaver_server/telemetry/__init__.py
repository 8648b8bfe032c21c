"""Observation: metrics, the call log and traces."""
