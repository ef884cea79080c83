"""The HTTP and WebSocket interfaces: the backend, the ML service and the exporter.

`serve` runs the backend process, and `app` puts its routers together. `auth` finds the user of a request, `fields`,
`paging` and `schemas` define the JSON, and `problems` turns errors into responses. An upload passes through
`uploads`, `incoming`, `intake` and `archives`, a live connection through `live`, `hub` and `live_state`, a download
through `files`. Most other modules are one router each. `ml` and `exporter` are the applications of two other
processes.
"""
