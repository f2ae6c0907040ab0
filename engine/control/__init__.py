"""The control database: connectors, their runs, leases and the ledger of files. Its tables are drawn in `schema.sql`."""
