"""What `init` says of the version and the variables of a server."""

import pytest

from operations.server_checks import UnfitServer, judge_milvus, judge_mysql

pytestmark = pytest.mark.unit

FIT = {"max_allowed_packet": 64 << 20, "log_bin": 1, "innodb_flush_log_at_trx_commit": 1, "sync_binlog": 1}


@pytest.mark.parametrize("version", ["8.0.19", "8.0.36-0ubuntu0.22.04.1", "8.4.3", "9.7.4-2"])
def test_fit_server_gets_no_line(version: str) -> None:
    assert judge_mysql(version, FIT) == []


@pytest.mark.parametrize("version", ["8.0.18", "5.7.44-log", "11.4.2-MariaDB-ubu2404", "8.0.30-mariadb"])
def test_old_or_other_server_is_refused(version: str) -> None:
    with pytest.raises(UnfitServer, match=rf"{version}; rag-outbox needs (MySQL )?8\.0\.19 or later"):
        judge_mysql(version, FIT)


def test_packet_smaller_than_a_statement_is_refused() -> None:
    assert judge_mysql("8.4.3", FIT | {"max_allowed_packet": 32 << 20}) == []
    with pytest.raises(UnfitServer, match="max_allowed_packet=16777216, and must have at least 33554432"):
        judge_mysql("8.4.3", FIT | {"max_allowed_packet": 16 << 20})


def test_settings_that_may_lose_commits_are_named() -> None:
    weak = FIT | {"innodb_flush_log_at_trx_commit": 2, "sync_binlog": 0}
    assert [line.split(":")[0] for line in judge_mysql("8.4.3", weak)] == [
        "MySQL has innodb_flush_log_at_trx_commit=2",
        "MySQL has sync_binlog=0",
    ]
    assert judge_mysql("8.4.3", FIT | {"sync_binlog": 0, "log_bin": 0}) == []


def test_old_milvus_is_refused() -> None:
    for version in ("v2.3.5-lite", "2.4.0", "v2.6.1", "master-20260101"):
        judge_milvus(version)
    for version in ("v2.3.4", "2.2.16"):
        with pytest.raises(UnfitServer, match=rf"the Milvus server is {version}; rag-outbox needs 2\.3\.5 or later"):
            judge_milvus(version)
