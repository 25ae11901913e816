"""What is fetched, pinned in one place. A new version gets a cache folder of its own."""

MYSQL = "9.7"  # Debian's archive keeps only its newest; another one is used too, and said
MYSQL_SUITE = "sid"  # the one Debian suite that has MySQL rather than MariaDB
KAFKA = "4.1.1"
KAFKA_SCALA = "2.13"
KAFKA_LOG4J = "2.24.3"  # the one that comes with it
MAVEN_DEPENDENCY_PLUGIN = "3.8.1"
MINIO = "v0.0.0-20260212201848-7aac2a2c5b7c"  # the last of its release line; archived upstream
MILVUS = "2.3.5"  # the last one that the Python package index has as a server
