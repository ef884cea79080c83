"""Advice that several checks give."""

from spheroseg.errors import BadMessage

HOW_TO_START = {
    "relay": "start `spheroseg relay`, or `spheroseg serve` without SERVE_RELAY=false",
    "collect": "start `spheroseg collect`, or `spheroseg serve` without SERVE_COLLECT=false",
    "worker": "start `spheroseg worker` (`docker-compose up -d ml`), and look into its log",
}

QUEUE_DISABLED = "ENABLE_MESSAGE_QUEUE=false: workers take tasks from the database queue, and RabbitMQ is not used"
NOTHING_LOST = "meanwhile tasks go through the database queue, and nothing is lost"
RABBITMQ_LOG = "`docker-compose logs rabbitmq`"
ON_ALARM = (
    "usually a memory or disk alarm: `rabbitmqctl status` names it; free memory or disk, or raise the limit in "
    f"rabbitmq.conf; {NOTHING_LOST}"
)

BY_FAILURE_REASON = {
    BadMessage.code: "usually backend and workers are of different versions: update both to the same one, then run "
    "`spheroseg dlq retry --reason bad_message`",
    "timeout": "raise TASK_TIMEOUT_SECONDS if such images may take longer: `spheroseg dlq list --reason timeout`",
    "killed": "usually the worker's machine ran out of memory: lower WORKER_CONCURRENCY, or give it more memory",
    "out_of_memory": "lower WORKER_CONCURRENCY, or give the worker more memory",
    "crashed": "look into the worker's log; if one image causes it, report it with that image",
    "worker_lost": "look into the workers' logs for why they ended",
    "model_unusable": "install the same version of spheroseg everywhere, and check MODEL of the workers",
    "unreadable": "see that backend and workers have the same STORAGE_URL and may read there",
    "io_error": "see that backend and workers have the same STORAGE_URL and may read there",
    "disk_full": "free some space on the disk of the storage",
    "expired": "no worker took the task in time: see the workers, and the message TTL in the policy",
    "maxlen": "the queue was full: start more workers, or raise max-length in its policy",
}
ON_OTHER_FAILURE = "`spheroseg dlq list` shows them; the files themselves may be damaged"
