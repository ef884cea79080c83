"""The worker: takes tasks from the queue, has child processes segment their images, and reports the results.

A task passes through the modules in this order: `loop` (a slot takes messages), `task_batch` (the messages that it
works on together), `request` (one request to the child, with a deadline), `child` (the parent's side of the child
process), `pipe` (the frames between the two), `child_server` (the child's side), `segment` (the work itself).
`reports` and `settlement` then report the results and settle the messages.
"""
