"""The metadata database: connection, tables, migrations."""
