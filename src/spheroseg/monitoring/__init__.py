"""Monitoring of a site: heartbeats, health, metrics for Prometheus, and the doctor."""
