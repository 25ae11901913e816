"""The pinned versions of everything that is fetched. Each version has its own cache folder."""

MYSQL = "9.7"  # Debian's archive has only its newest version; another version is used with a notice
MYSQL_SUITE = "sid"  # the only Debian suite with MySQL instead of MariaDB
KAFKA = "4.1.1"
KAFKA_SCALA = "2.13"
KAFKA_LOG4J = "2.24.3"  # the version that Kafka ships with
MAVEN_DEPENDENCY_PLUGIN = "3.8.1"
MINIO = "v0.0.0-20260212201848-7aac2a2c5b7c"  # the last release; archived upstream
MILVUS = "2.3.5"  # the last server release with a wheel
PROMETHEUS = "2.42"
PROMETHEUS_SUITE = "bookworm"
MYSQLD_EXPORTER = "0.14"
NODE_EXPORTER = "1.5"
CHROMIUM_SUITE = "bookworm"  # the archive has only its newest version, and every version will do
