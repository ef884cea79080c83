"""How a site is: heartbeats, health, figures for Prometheus, and the doctor."""
