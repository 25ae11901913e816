"""Every limit of the contract, shared by the tables, the collection and the checks of the writer."""

DOC_ID_BYTES = 64
CHUNK_ID_BYTES = 64
TITLE_CHARACTERS = 512
SOURCE_URL_CHARACTERS = 1024
BUSINESS_TAG_BYTES = 128
DOMAIN_CHARACTERS = 64
LANGUAGE_CHARACTERS = 16
OBJECT_KEY_BYTES = 256
CHUNK_STRATEGY_CHARACTERS = 32
VECTOR_LEVEL_BYTES = 16
MODAL_TYPE_BYTES = 16
ASSOCIATE_ID_BYTES = 64
EXTENSION_CHARACTERS = 16
CONTENT_TYPE_CHARACTERS = 128
OPERATOR_CHARACTERS = 64
MODEL_CHARACTERS = 128  # of the name of an embedding model
HEADERS = 16  # of an event, besides those that the relay sets
HEADER_NAME_BYTES = 64
HEADER_VALUE_BYTES = 1_024
TRANSACTION_CONTEXT_BYTES = 4_096  # of JSON, per row of operation_logs
LANES = 256
LAST_VERSION = 2**63 - 2  # of an event: the next one is a BIGINT too

CONTENT_BYTES = 65_535  # Milvus: the longest VARCHAR
PREVIEW_CHARACTERS = 500  # of the content of a chunk, stored in MySQL
CHUNKS_PER_DOCUMENT = 100_000
VECTOR_DIMENSION = 32_768  # Milvus: the largest FLOAT_VECTOR
SPARSE_ENTRIES = 4_096  # weights per chunk
SPARSE_ID = 2**32 - 2  # Milvus: the largest token id of a SPARSE_FLOAT_VECTOR

EXTRACTED_FILES = 1_000  # tables of a document, and images of it

EVENT_BYTES = 512 * 1024  # encoded; a larger document is split into numbered parts
INSERT_BYTES = 16 * 1024 * 1024  # payloads that the writer holds in memory and inserts together
INLINE_FILE_BYTES = 64 * 1024  # a larger file is staged in the object store
STAGED_FILE_HOURS = 12  # how long the writer takes a staged file; the sweep removes it after twice that time
