"""*Stores*: MySQL, Kafka, Milvus and the object store, and the machine below them."""

from collections.abc import Iterator

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from compose.grafana.panels import INTERVAL, Query, board, graph, quantiles, states

_DISKS = '{fstype!~"tmpfs|ramfs|overlay|squashfs"}'
_STATUS = "mysql_global_status"


def stores() -> Dashboard:
    made = board("Stores", "MySQL, Kafka, Milvus and the object store, and the machine below them.")
    for panel in (*_ours(), *_mysql(), *_machine()):
        made.with_panel(panel)
    return made


def _ours() -> Iterator[Builder[Panel]]:
    """What our processes see of the stores."""
    yield states(
        "Reached",
        "Whether each process reaches its stores. It looks every 10 seconds. After a minute an alert fires.",
        Query("{{instance}} → {{dependency}}", "rag_outbox_dependency_up"),
    )
    yield states(
        "Read by the monitor",
        "Whether the monitor reads the database and Kafka.",
        Query("{{source}}", "rag_outbox_monitor_up"),
    )
    yield graph(
        "Failed attempts",
        "That are made again. A few are normal: a deadlock, a restart.",
        "suffix: /s",
        Query(
            "{{dependency}} {{reason}}",
            f"sum by (dependency, reason) (rate(rag_outbox_retries_total[{INTERVAL}]))"
            ' or label_replace(vector(0), "dependency", "none", "", "")',
        ),
    )
    yield graph(
        "Seconds per batch",
        "To apply and mark it, by sink. Empty while nothing is written.",
        "s",
        *quantiles("rag_outbox_apply_seconds", "sink"),
    )
    yield graph(
        "InnoDB history list",
        "Old row versions. A transaction that stays open makes it grow. From 100,000 on, an alert fires.",
        "short",
        Query("row versions", "rag_outbox_history_list_length"),
        limits=(50_000, 100_000),
    )
    yield graph(
        "Reconcile: differences",
        "Between the database and each store, found by the last run. One is enough for an alert.",
        "short",
        Query("{{store}} {{kind}}", 'sum by (store, kind) (rag_outbox_reconcile_differences{kind!="foreign"})'),
        limits=(1, 100),
    )
    yield graph(
        "Reconcile: last run",
        "The time since its end. Without a run, nobody looks for differences.",
        "s",
        Query("since the last run", "time() - max(rag_outbox_reconcile_last_success_timestamp_seconds)"),
        limits=(90_000, 180_000),
    )
    yield graph(
        "Newest backup",
        "Its age, by place: the bucket of the system, or a copy. Over 30 hours an alert fires six hours later.",
        "s",
        Query("{{place}}", "time() - max by (place) (rag_outbox_backup_newest_timestamp_seconds)"),
        limits=(90_000, 108_000),
    )


def _mysql() -> Iterator[Builder[Panel]]:
    yield graph(
        "MySQL: transactions",
        "Commits and rollbacks.",
        "suffix: /s",
        Query(
            "{{command}}",
            f'sum by (command) (rate({_STATUS}_commands_total{{command=~"commit|rollback"}}[{INTERVAL}]))',
        ),
    )
    yield graph(
        "MySQL: statements",
        "Of all clients.",
        "suffix: /s",
        Query("statements", f"rate({_STATUS}_questions[{INTERVAL}])"),
    )
    yield graph(
        "MySQL: connections",
        "Open, and at work.",
        "short",
        Query("open", f"{_STATUS}_threads_connected"),
        Query("at work", f"{_STATUS}_threads_running"),
    )
    yield graph(
        "MySQL: row locks",
        "Waits for a row that another transaction holds.",
        "suffix: /s",
        Query("waits", f"rate({_STATUS}_innodb_row_lock_waits[{INTERVAL}])"),
    )
    yield graph(
        "MySQL: reads from disk",
        "Share of page reads that the buffer pool could not serve. Some percent: the backlog does not fit into it.",
        "percentunit",
        Query(
            "from disk",
            f"rate({_STATUS}_innodb_buffer_pool_reads[{INTERVAL}])"
            f" / clamp_min(rate({_STATUS}_innodb_buffer_pool_read_requests[{INTERVAL}]), 1)",
        ),
    )
    yield graph(
        "MySQL: redo log", "Written.", "Bps", Query("redo log", f"rate({_STATUS}_innodb_os_log_written[{INTERVAL}])")
    )


def _machine() -> Iterator[Builder[Panel]]:
    yield graph(
        "Disk: free",
        "Share of each file system that is free. Below 10 %, an alert fires.",
        "percentunit",
        Query("{{mountpoint}}", f"node_filesystem_avail_bytes{_DISKS} / node_filesystem_size_bytes{_DISKS}"),
    )
    yield graph(
        "Disk: busy",
        "Share of the time.",
        "percentunit",
        Query("{{device}}", f"rate(node_disk_io_time_seconds_total[{INTERVAL}])"),
    )
    yield graph(
        "Processors: busy",
        "Share of all of them.",
        "percentunit",
        Query("{{instance}}", f'1 - avg by (instance) (rate(node_cpu_seconds_total{{mode="idle"}}[{INTERVAL}]))'),
    )
    yield graph("Memory: available", "For new work.", "bytes", Query("{{instance}}", "node_memory_MemAvailable_bytes"))
