"""What happens to tasks between people, queues and the database: submit, relay, collect, sweep, webhooks."""
