-- Ledger, event queue and control data. Runs once, in one transaction, as the owner.
--
-- auditlog            tables; no login but the owner's and the few grants below reaches them
-- auditlog_queue      the embedded event queue
-- auditlog_directory  tenants, API keys and wrapped keys, bound to one tenant a transaction
-- auditlog_query      the ledger as query sees it, bound to one tenant a transaction
--
-- The logins (auditlog_ingest, …) belong to the cluster and are made before this runs.

CREATE SCHEMA auditlog;
CREATE SCHEMA auditlog_queue;
CREATE SCHEMA auditlog_directory;
CREATE SCHEMA auditlog_query;

-- All SQL takes its time from here, so that a test can replace it.
CREATE FUNCTION auditlog.now() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT clock_timestamp()';

-- The tenant that this transaction is bound to; NULL, which equals nothing, where none is.
CREATE FUNCTION auditlog.bound_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$SELECT nullif(current_setting('auditlog.tenant', true), '')$$;

CREATE TABLE auditlog.facts (
    name  text PRIMARY KEY,
    value text NOT NULL
);
COMMENT ON TABLE auditlog.facts IS 'What a database says of itself: made by `auditlog up` (development mode), its id.';

-- Control data -------------------------------------------------------------------------------------------------------

CREATE TABLE auditlog.tenants (
    tenant         text PRIMARY KEY CHECK (tenant ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name           text NOT NULL,
    status         text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'deleted')),
    ingest         text NOT NULL DEFAULT 'open' CHECK (ingest IN ('open', 'blocked')),
    masking        text NOT NULL DEFAULT '{}',
    limits         text NOT NULL DEFAULT '{}',
    retention_days integer NOT NULL DEFAULT 365 CHECK (retention_days BETWEEN 1 AND 36500),
    created_at     timestamptz NOT NULL DEFAULT auditlog.now(),
    version        bigint NOT NULL DEFAULT 1
);

CREATE TABLE auditlog.api_keys (
    tenant       text NOT NULL REFERENCES auditlog.tenants,
    key_id       uuid NOT NULL,
    name         text NOT NULL,
    role         text NOT NULL CHECK (role IN ('admin', 'auditor', 'user', 'producer')),
    scope        text[],
    data_scope   text NOT NULL,
    secret_hash  bytea NOT NULL CHECK (length(secret_hash) = 32),
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (tenant, key_id)
);

CREATE TABLE auditlog.tenant_keys (
    tenant     text NOT NULL REFERENCES auditlog.tenants,
    purpose    text NOT NULL,
    generation integer NOT NULL,
    key_id     uuid NOT NULL,
    wrapped    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT auditlog.now(),
    PRIMARY KEY (tenant, purpose, generation),
    UNIQUE (tenant, key_id)
);

-- Which purposes' keys a login is shown.
CREATE TABLE auditlog.key_purposes (
    login   name NOT NULL,
    purpose text NOT NULL,
    PRIMARY KEY (login, purpose)
);
INSERT INTO auditlog.key_purposes VALUES
    ('auditlog_ingest', 'transport'), ('auditlog_ingest', 'lookup'), ('auditlog_ingest', 'digest'),
    ('auditlog_ingest', 'receipt'),
    ('auditlog_projector', 'transport'), ('auditlog_projector', 'owner'), ('auditlog_projector', 'lookup'),
    ('auditlog_query', 'transport'), ('auditlog_query', 'owner'), ('auditlog_query', 'lookup'),
    ('auditlog_query', 'cursor'), ('auditlog_query', 'receipt'),
    ('auditlog_admin', 'transport'), ('auditlog_admin', 'lookup');

-- Records of changes to control data, as messages for the event queue. Each is written in the transaction of its change,
-- and lies here until the queue has it.
CREATE TABLE auditlog.outbox (
    outbox_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     text NOT NULL,
    batch_id   uuid NOT NULL,
    body       bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT auditlog.now()
);
ALTER TABLE auditlog.outbox ALTER COLUMN body SET STORAGE EXTERNAL;

-- The ledger ---------------------------------------------------------------------------------------------------------

-- One row a tenant, locked by each append. Narrow and loosely filled, so that its updates stay on their page.
CREATE TABLE auditlog.heads (
    tenant        text PRIMARY KEY REFERENCES auditlog.tenants,
    log_id        bytea NOT NULL UNIQUE CHECK (length(log_id) = 16),
    next_position bigint NOT NULL DEFAULT 0,
    recorded_at   timestamptz
) WITH (fillfactor = 50);

CREATE TABLE auditlog.entries (
    tenant         text NOT NULL,
    position       bigint NOT NULL,
    recorded_at    timestamptz NOT NULL,
    id             uuid NOT NULL,
    "timestamp"    timestamptz NOT NULL,
    received_at    timestamptz NOT NULL,
    action         text NOT NULL,
    severity       text NOT NULL,
    outcome        text NOT NULL,
    resource_type  text NOT NULL,
    source         text,
    request_id     text,
    correlation_id text,
    trace_id       text,
    producer_id    text,
    producer_seq   bigint,
    schema_version smallint NOT NULL,
    flags          text[],
    resource_id    text,
    user_id        text,
    subject_id     text,
    session_id     text,
    ip_address     text,
    submitted_by   text,
    core_salt      bytea NOT NULL,
    root           bytea NOT NULL,
    leaf_hash      bytea NOT NULL,
    sealed         bytea NOT NULL
) PARTITION BY RANGE (recorded_at);

-- Sealed bytes don't compress again; out of line only where a row would not fit its page.
ALTER TABLE auditlog.entries ALTER COLUMN sealed SET STORAGE EXTERNAL;

CREATE UNIQUE INDEX entries_position ON auditlog.entries (tenant, position, recorded_at);
CREATE INDEX entries_id ON auditlog.entries (tenant, id);
CREATE INDEX entries_user ON auditlog.entries (tenant, user_id, position);
CREATE INDEX entries_action ON auditlog.entries (tenant, action, position);
-- 256 characters are at most 1,024 bytes, so that no resource_id can pass the bound of an index entry.
CREATE INDEX entries_resource ON auditlog.entries (tenant, (left(resource_id, 256)), position);
-- Those that join entries to other systems cost only the entries that have them.
CREATE INDEX entries_request ON auditlog.entries (tenant, request_id, position) WHERE request_id IS NOT NULL;
CREATE INDEX entries_correlation ON auditlog.entries (tenant, correlation_id, position) WHERE correlation_id IS NOT NULL;
CREATE INDEX entries_trace ON auditlog.entries (tenant, trace_id, position) WHERE trace_id IS NOT NULL;
CREATE INDEX entries_session ON auditlog.entries (tenant, session_id, position) WHERE session_id IS NOT NULL;

-- A contiguous range of one tenant's positions in one day's partition.
CREATE TABLE auditlog.spans (
    tenant            text NOT NULL,
    day               date NOT NULL,
    first_position    bigint NOT NULL,
    last_position     bigint NOT NULL,
    first_recorded_at timestamptz NOT NULL,
    last_recorded_at  timestamptz NOT NULL,
    min_timestamp     timestamptz NOT NULL,
    max_timestamp     timestamptz NOT NULL,
    PRIMARY KEY (tenant, day)
) WITH (fillfactor = 50);
-- A walk begins at any position. An append changes neither column, so that its update stays on its page.
CREATE UNIQUE INDEX spans_position ON auditlog.spans (tenant, first_position);

-- Batch ids catch redelivery; kept 28 days.
CREATE TABLE auditlog.batch_ids (
    tenant      text NOT NULL,
    batch_id    uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, batch_id)
);
CREATE INDEX batch_ids_recorded ON auditlog.batch_ids USING brin (recorded_at);

-- Ids made by clients or from keys, as long as their entries.
CREATE TABLE auditlog.event_ids (
    tenant      text NOT NULL,
    id          uuid NOT NULL,
    fingerprint bytea NOT NULL,
    position    bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE auditlog.owner_keys (
    tenant        text NOT NULL,
    key_id        uuid NOT NULL,
    tag           bytea NOT NULL CHECK (length(tag) = 16),
    tenant_key_id uuid NOT NULL,
    wrapped       bytea NOT NULL,
    PRIMARY KEY (tenant, key_id),
    UNIQUE (tenant, tag, tenant_key_id)
);

CREATE TABLE auditlog.dead_letters (
    dead_letter_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant          text NOT NULL,
    batch_id        uuid NOT NULL,
    ordinal         integer,
    replay_batch_id uuid NOT NULL,
    reason          text NOT NULL,
    detail          text NOT NULL,
    message         bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT auditlog.now(),
    replayed_at     timestamptz,
    UNIQUE NULLS NOT DISTINCT (tenant, batch_id, ordinal)
);
ALTER TABLE auditlog.dead_letters ALTER COLUMN message SET STORAGE EXTERNAL;

-- Attaches the partitions of today and the `ahead` days after it, and answers the first day that has none.
-- A table made apart and attached needs no lock that a reader or writer of the parent would wait for.
CREATE FUNCTION auditlog.attach_days(first_day date, ahead integer) RETURNS date
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    AS $$
DECLARE
    day  date;
    part text;
BEGIN
    IF ahead NOT BETWEEN 0 AND 31 THEN
        RAISE EXCEPTION 'ahead is 0 to 31 days';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('auditlog.attach_days'));
    FOR i IN 0..ahead LOOP
        day := first_day + i;
        part := 'entries_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('auditlog.' || part) IS NULL THEN
            EXECUTE format('CREATE TABLE auditlog.%I (LIKE auditlog.entries INCLUDING DEFAULTS INCLUDING STORAGE, '
                'CONSTRAINT day CHECK (recorded_at >= %L AND recorded_at < %L))',
                part, day::timestamptz, (day + 1)::timestamptz);
            EXECUTE format('ALTER TABLE auditlog.entries ATTACH PARTITION auditlog.%I FOR VALUES FROM (%L) TO (%L)',
                part, day::timestamptz, (day + 1)::timestamptz);
            EXECUTE format('ALTER TABLE auditlog.%I DROP CONSTRAINT day', part);
        END IF;
    END LOOP;
    RETURN first_day + ahead + 1;
END
$$;
REVOKE ALL ON FUNCTION auditlog.attach_days FROM public;

-- A new tenant: its row, its head with a log id never used before, its first wrapped keys.
CREATE FUNCTION auditlog.create_tenant(
    new_tenant text, new_name text, purposes text[], key_ids uuid[], wrapped_keys bytea[]
) RETURNS auditlog.tenants
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    made auditlog.tenants;
BEGIN
    INSERT INTO auditlog.tenants (tenant, name) VALUES (new_tenant, new_name) RETURNING * INTO made;
    INSERT INTO auditlog.heads (tenant, log_id) VALUES (new_tenant, uuid_send(gen_random_uuid()));
    INSERT INTO auditlog.tenant_keys (tenant, purpose, generation, key_id, wrapped)
        SELECT new_tenant, purpose, 1, key_id, wrapped
        FROM unnest(purposes, key_ids, wrapped_keys) AS k (purpose, key_id, wrapped);
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION auditlog.create_tenant FROM public;

-- Takes the oldest messages out that nobody else has in hand. They are back if the transaction does not commit.
-- A function, since to lock a row one needs the right to update it.
CREATE FUNCTION auditlog.take_outbox(messages_max integer) RETURNS TABLE (tenant text, batch_id uuid, body bytea)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
WITH taken AS (
    DELETE FROM auditlog.outbox WHERE outbox_id = ANY (ARRAY(
        SELECT outbox_id FROM auditlog.outbox ORDER BY outbox_id LIMIT messages_max FOR UPDATE SKIP LOCKED
    ))
    RETURNING *
)
SELECT tenant, batch_id, body FROM taken ORDER BY outbox_id
$$;
REVOKE ALL ON FUNCTION auditlog.take_outbox FROM public;

-- When keys were last used, as the projector read it in what they submitted.
CREATE FUNCTION auditlog.touch_api_keys(of_tenants text[], of_keys uuid[], used_at timestamptz[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
UPDATE auditlog.api_keys k SET last_used_at = u.used_at
FROM unnest(of_tenants, of_keys, used_at) AS u (tenant, key_id, used_at)
WHERE k.tenant = u.tenant AND k.key_id = u.key_id AND (k.last_used_at IS NULL OR k.last_used_at < u.used_at)
$$;
REVOKE ALL ON FUNCTION auditlog.touch_api_keys FROM public;

-- The embedded event queue -------------------------------------------------------------------------------------------

CREATE TABLE auditlog_queue.messages (
    message_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     text NOT NULL,
    batch_id   uuid NOT NULL,
    body       bytea NOT NULL,
    sent_at    timestamptz NOT NULL DEFAULT auditlog.now(),
    visible_at timestamptz NOT NULL DEFAULT auditlog.now(),
    receives   integer NOT NULL DEFAULT 0,
    receipt    uuid
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0);
ALTER TABLE auditlog_queue.messages ALTER COLUMN body SET STORAGE EXTERNAL;
-- Serves tenants in turn: the next tenant and its oldest message are one index step each.
CREATE INDEX messages_turn ON auditlog_queue.messages (tenant, message_id);

-- What each part sees ------------------------------------------------------------------------------------------------

CREATE VIEW auditlog_directory.tenants AS
    SELECT * FROM auditlog.tenants WHERE tenant = auditlog.bound_tenant();
CREATE VIEW auditlog_directory.api_keys AS
    SELECT * FROM auditlog.api_keys WHERE tenant = auditlog.bound_tenant();
-- `current_user` is who asks, not the view's owner.
CREATE VIEW auditlog_directory.tenant_keys AS
    SELECT k.* FROM auditlog.tenant_keys k
    WHERE k.tenant = auditlog.bound_tenant()
      AND k.purpose IN (SELECT p.purpose FROM auditlog.key_purposes p WHERE p.login = current_user);

-- The bound stands as its expression, not as a function: the planner folds it to a constant and prunes by it.
CREATE VIEW auditlog_query.entries AS
    SELECT * FROM auditlog.entries WHERE tenant = nullif(current_setting('auditlog.tenant', true), '');
CREATE VIEW auditlog_query.spans AS
    SELECT * FROM auditlog.spans WHERE tenant = nullif(current_setting('auditlog.tenant', true), '');
CREATE VIEW auditlog_query.heads AS
    SELECT * FROM auditlog.heads WHERE tenant = nullif(current_setting('auditlog.tenant', true), '');
CREATE VIEW auditlog_query.event_ids AS
    SELECT * FROM auditlog.event_ids WHERE tenant = nullif(current_setting('auditlog.tenant', true), '');
CREATE VIEW auditlog_query.owner_keys AS
    SELECT * FROM auditlog.owner_keys WHERE tenant = nullif(current_setting('auditlog.tenant', true), '');

GRANT USAGE ON SCHEMA auditlog TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;
GRANT SELECT ON auditlog.facts TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;
GRANT USAGE ON SCHEMA auditlog_directory TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;
GRANT SELECT ON ALL TABLES IN SCHEMA auditlog_directory
    TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;

-- Reads, admin's changes and refused attempts are recorded through the queue, so query and admin may send to it.
GRANT USAGE ON SCHEMA auditlog_queue TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;
GRANT INSERT (tenant, batch_id, body) ON auditlog_queue.messages
    TO auditlog_ingest, auditlog_projector, auditlog_query, auditlog_admin;
GRANT SELECT, UPDATE, DELETE ON auditlog_queue.messages TO auditlog_projector;
CREATE FUNCTION auditlog_queue.depth(OUT messages bigint, OUT bytes bigint, OUT oldest_age_s double precision)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
SELECT count(*), coalesce(sum(octet_length(body)), 0)::bigint,
    coalesce(extract(epoch FROM auditlog.now() - min(sent_at)), 0)::double precision
FROM auditlog_queue.messages
$$;

-- A log's id is given once, with the tenant.
GRANT SELECT, UPDATE (next_position, recorded_at) ON auditlog.heads TO auditlog_projector;
GRANT SELECT, INSERT ON auditlog.entries TO auditlog_projector;
GRANT SELECT, INSERT, UPDATE ON auditlog.spans TO auditlog_projector;
GRANT SELECT, INSERT, DELETE ON auditlog.batch_ids TO auditlog_projector;
GRANT SELECT, INSERT ON auditlog.event_ids, auditlog.owner_keys TO auditlog_projector;
GRANT SELECT, INSERT ON auditlog.dead_letters TO auditlog_projector;
GRANT UPDATE (replayed_at) ON auditlog.dead_letters TO auditlog_projector;
GRANT EXECUTE ON FUNCTION auditlog.attach_days, auditlog.touch_api_keys TO auditlog_projector;

GRANT USAGE ON SCHEMA auditlog_query TO auditlog_query;
GRANT SELECT ON ALL TABLES IN SCHEMA auditlog_query TO auditlog_query;

GRANT SELECT ON auditlog.tenants, auditlog.api_keys TO auditlog_admin;
GRANT SELECT (tenant, purpose, generation, key_id, created_at) ON auditlog.tenant_keys TO auditlog_admin;
GRANT UPDATE (name, status, ingest, masking, limits, retention_days, version) ON auditlog.tenants TO auditlog_admin;
GRANT INSERT ON auditlog.api_keys, auditlog.tenant_keys TO auditlog_admin;
GRANT UPDATE (revoked_at) ON auditlog.api_keys TO auditlog_admin;
GRANT INSERT (tenant, batch_id, body), SELECT (outbox_id, written_at) ON auditlog.outbox TO auditlog_admin;
GRANT EXECUTE ON FUNCTION auditlog.create_tenant, auditlog.take_outbox TO auditlog_admin;
