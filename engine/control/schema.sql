-- The control database. `ferry db init` makes what is missing and alters nothing; each statement stands below the name of its table.
-- The first five tables are the platform's own; ferry reads four of them and writes cai_connector_runs.

-- table: ad_lookup_codes
CREATE TABLE ad_lookup_codes (
    id SERIAL PRIMARY KEY,
    lookup_code VARCHAR(100) NOT NULL UNIQUE
);

-- table: cai_defined_sources
CREATE TABLE cai_defined_sources (
    id SERIAL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    source_type_lookup_code_id INTEGER,
    config JSONB
);

-- table: cai_defined_destinations
CREATE TABLE cai_defined_destinations (
    id SERIAL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    destination_type_lookup_code_id INTEGER,
    config JSONB
);

-- table: cai_connectors
CREATE TABLE cai_connectors (
    id SERIAL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    defined_source_id INTEGER,
    defined_destination_id INTEGER,
    source_config_override JSONB,
    destination_config_override JSONB
);

-- table: cai_connector_runs
CREATE TABLE cai_connector_runs (
    id SERIAL PRIMARY KEY,
    connector_id INTEGER NOT NULL,
    status VARCHAR(50) NOT NULL,
    prefect_flow_run_id VARCHAR(255),
    started_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP,
    rows_ingested INTEGER,
    log_summary TEXT
);

-- What follows is ferry's own.

-- table: ferry_leases
-- Who may run a connector now. The row outlives its holder, so that the token only grows: whoever comes with an older one is refused.
CREATE TABLE ferry_leases (
    connector_id INTEGER PRIMARY KEY,
    token BIGINT NOT NULL,
    run_id INTEGER,                 -- cai_connector_runs.id; NULL where the record could not be made
    flow_run_id VARCHAR(255),
    host VARCHAR(255) NOT NULL,
    process INTEGER NOT NULL,
    acquired_at TIMESTAMPTZ NOT NULL,
    renewed_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ          -- NULL: nobody holds it
);

-- table: ferry_files
-- The ledger: what each run does to each file of its destination, written before it is done.
CREATE TABLE ferry_files (
    id BIGINT GENERATED ALWAYS AS IDENTITY, -- for people: ferry files resolve ID
    connector_id INTEGER NOT NULL,
    token BIGINT NOT NULL,          -- of the lease: one run of the connector
    path TEXT NOT NULL,             -- below the destination's path
    run_id INTEGER,
    url TEXT NOT NULL,              -- how the destination names it: s3://bucket/key, /folder/file
    host VARCHAR(255) NOT NULL,     -- where the run was: a folder may be that machine's own
    state VARCHAR(20) NOT NULL,     -- writing, publishing, written, replaced, discarded, deleting, deleted, swept, ambiguous, removing source, moved
    leftover TEXT,                  -- what a kill while writing leaves: a temporary name, the id of a multipart upload
    file_rows BIGINT,
    file_bytes BIGINT,
    sha256 CHAR(64),
    verified VARCHAR(20),
    source_path TEXT,               -- of a transfer: the file below the source's path
    source_version TEXT,            -- which version of it: an ETag, or size and modification time
    changed_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (connector_id, token, path)
);
CREATE INDEX ferry_files_run ON ferry_files (run_id);
CREATE INDEX ferry_files_unfinished ON ferry_files (connector_id, token) WHERE state IN ('writing', 'publishing');
CREATE INDEX ferry_files_source ON ferry_files (connector_id, source_path, token) WHERE source_path IS NOT NULL;

-- table: ferry_host_keys
-- SSH host keys that somebody has looked at and trusts.
CREATE TABLE ferry_host_keys (
    host VARCHAR(255) NOT NULL,
    port INTEGER NOT NULL,
    key_type VARCHAR(100) NOT NULL,
    public_key TEXT NOT NULL,
    trusted_by VARCHAR(255) NOT NULL,
    trusted_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (host, port, key_type)
);
