"""The schema, its revisions, and all SQL. Functions take a connection, so that the caller owns the transaction."""
