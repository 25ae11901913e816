"""The dump of the metadata database, on MySQL and on SQLite, and the database that it is loaded into."""
