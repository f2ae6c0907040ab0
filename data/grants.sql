-- Roles for arrow-ferry with no more rights than it needs. They cannot log in; members do:
--
--     psql CONTROL_DATABASE -f data/grants.sql        -- after ferry db init, as owner of the tables (or superuser) who may create roles
--     psql SOURCE_DATABASE -f data/grants.sql         -- once more wherever data are read from
--
--     CREATE ROLE ferry_worker LOGIN PASSWORD '…';    -- the user of DATABASE_URL where connectors run
--     GRANT ferry_runner TO ferry_worker;
--     CREATE ROLE study_reader LOGIN PASSWORD '…';    -- the user of a source's connection_string
--     GRANT ferry_source TO study_reader;
--
--   ferry_runner   runs connectors and closes the records of dead runs; changes no connector, deletes nothing
--   ferry_history  sees runs and their files (ferry runs), but no configuration
--   ferry_source   reads the tables and views of schema public of a source database
--
-- The file can be run again at any time, also after new tables came, and in any database: each part acts only where its tables are.
-- It takes no right away: what PUBLIC or other roles of a member may do, they still may. Before PostgreSQL 15 everybody may create tables
-- in schema public unless you say REVOKE CREATE ON SCHEMA public FROM PUBLIC. Who edits connectors (ferry connectors import) is not among these roles.

-- The control database.
DO $$
DECLARE
    one_table text;
    sequence text := CASE WHEN to_regclass('cai_connector_runs') IS NOT NULL THEN pg_get_serial_sequence('cai_connector_runs', 'id') END;
    one_role text;
BEGIN
    IF to_regclass('cai_connectors') IS NULL THEN
        RETURN;
    END IF;
    FOREACH one_role IN ARRAY ARRAY['ferry_runner', 'ferry_history'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = one_role) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', one_role);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN -- roles are the server's: another database made it just now
            NULL;
        END;
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = to_regclass('cai_connectors')), one_role);
    END LOOP;

    FOREACH one_table IN ARRAY ARRAY['cai_connectors', 'cai_defined_sources', 'cai_defined_destinations', 'ad_lookup_codes', 'ferry_host_keys'] LOOP
        IF to_regclass(one_table) IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %I TO ferry_runner', one_table);
        END IF;
    END LOOP;
    FOREACH one_table IN ARRAY ARRAY['ferry_leases', 'ferry_files'] LOOP
        IF to_regclass(one_table) IS NOT NULL THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO ferry_runner', one_table);
            EXECUTE format('GRANT SELECT ON %I TO ferry_history', one_table);
        END IF;
    END LOOP;
    IF to_regclass('cai_connector_runs') IS NOT NULL THEN
        GRANT SELECT, INSERT, UPDATE (status, finished_at, rows_ingested, log_summary) ON cai_connector_runs TO ferry_runner;
        GRANT SELECT ON cai_connector_runs TO ferry_history;
    END IF;
    IF sequence IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO ferry_runner', sequence);
    END IF;
    GRANT SELECT (id, name) ON cai_connectors TO ferry_history;
END
$$;

-- A source database; never one that holds connectors, whose configurations would be readable.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_class WHERE relname = 'cai_connectors') OR to_regnamespace('public') IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ferry_source') THEN
            CREATE ROLE ferry_source NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
    GRANT USAGE ON SCHEMA public TO ferry_source;
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO ferry_source;
END
$$;
