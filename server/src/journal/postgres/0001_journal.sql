-- Times are milliseconds since 1970-01-01T00:00:00Z. Texts compare byte by byte, whatever the database's
-- own collation. No table refers to another by a foreign key: each insertion would lock its purchase's
-- row once more, and every statement that writes here stands in these migrations.

CREATE TABLE meta (
    key text COLLATE "C" PRIMARY KEY,
    value text COLLATE "C" NOT NULL
);

-- The current row of each purchase. The free room of each page is for updates that change no index.
CREATE TABLE purchase (
    id uuid PRIMARY KEY,
    account text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    caller text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    labels text COLLATE "C" NOT NULL,
    create_time bigint NOT NULL,
    -- Of the newest revision:
    revision integer NOT NULL,
    state text COLLATE "C" NOT NULL,
    finality text COLLATE "C" NOT NULL,
    attention text COLLATE "C",
    -- The SHA-256 of the reference's canonical text, which can be too long for an index.
    reference bytea,
    change_time bigint NOT NULL,
    final_time bigint,
    -- Of the order:
    fingerprint_key text COLLATE "C" NOT NULL,
    fingerprints bytea NOT NULL,
    recovery text COLLATE "C" NOT NULL,
    submit_until bigint,
    -- The id of the attempt under way; set if and only if submit_until is.
    attempt_by uuid,
    first_send_time bigint,
    sends integer NOT NULL,
    resolution_note text COLLATE "C",
    -- The last status, once the transitions are gone: set makes the row a remnant.
    remnant text COLLATE "C",
    -- False for the history, which grows: FINAL in a state that is an end. A column, so that no index
    -- depends on the state itself, which changes often.
    is_live boolean NOT NULL GENERATED ALWAYS AS (finality <> 'FINAL' OR state NOT IN ('COMPLETED', 'FAILED',
        'EXPIRED', 'CANCELED', 'RETURNED', 'REFUNDED', 'DISPUTE_SETTLED')) STORED
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

CREATE UNIQUE INDEX purchase_by_key ON purchase (caller, key);
CREATE UNIQUE INDEX purchase_by_reference ON purchase (account, reference)
    WHERE reference IS NOT NULL AND remnant IS NULL;
CREATE INDEX purchase_by_time ON purchase (create_time, id) WHERE remnant IS NULL;
CREATE INDEX purchase_by_caller ON purchase (caller, create_time, id) WHERE remnant IS NULL;
CREATE INDEX purchase_live ON purchase (create_time, id) WHERE remnant IS NULL AND is_live;
CREATE INDEX purchase_live_by_caller ON purchase (caller, create_time, id) WHERE remnant IS NULL AND is_live;
CREATE INDEX purchase_attention ON purchase (create_time, id)
    WHERE remnant IS NULL AND attention IS NOT NULL;
CREATE INDEX purchase_attention_by_caller ON purchase (caller, create_time, id)
    WHERE remnant IS NULL AND attention IS NOT NULL;
CREATE INDEX purchase_open ON purchase (id) WHERE finality <> 'FINAL';
CREATE INDEX purchase_final ON purchase (final_time, id)
    WHERE final_time IS NOT NULL AND remnant IS NULL;
CREATE INDEX purchase_remnant ON purchase (final_time, id) WHERE remnant IS NOT NULL;

-- Each label of each purchase that is no remnant. A label can hold a character that no text here can:
-- U+0000 is \0, and \ is \\.
CREATE TABLE purchase_label (
    purchase uuid NOT NULL,
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    caller text COLLATE "C" NOT NULL,
    create_time bigint NOT NULL,
    PRIMARY KEY (purchase, key)
);

CREATE INDEX purchase_label_by_value ON purchase_label (caller, key, value, create_time, purchase);

-- The order of all commits. It has gaps where a commit failed, and never goes back.
CREATE SEQUENCE feed_position CACHE 1;

CREATE TABLE transition_log (
    position bigint PRIMARY KEY,
    purchase uuid NOT NULL,
    revision integer NOT NULL,
    caller text COLLATE "C" NOT NULL,
    from_state text COLLATE "C",
    cause text COLLATE "C" NOT NULL,
    -- Without the buyer action.
    status text COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05);

CREATE UNIQUE INDEX transition_by_revision ON transition_log (purchase, revision);
CREATE UNIQUE INDEX transition_by_caller ON transition_log (caller, position);

-- Apart from the log, so that wiping rewrites no status.
CREATE TABLE buyer_action (
    purchase uuid NOT NULL,
    revision integer NOT NULL,
    action text COLLATE "C" NOT NULL,
    PRIMARY KEY (purchase, revision)
);

CREATE TABLE kept_text (
    key text COLLATE "C" PRIMARY KEY,
    value text COLLATE "C" NOT NULL
) WITH (fillfactor = 50);

-- Further keys of purchases. They are kept as long from their binding on as a purchase's own key from
-- its creation on, and so is the purchase's row.
CREATE TABLE bound_key (
    caller text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    purchase uuid NOT NULL,
    fingerprint_key text COLLATE "C" NOT NULL,
    fingerprints bytea NOT NULL,
    bind_time bigint NOT NULL,
    PRIMARY KEY (caller, key)
);

CREATE INDEX bound_key_by_purchase ON bound_key (purchase, bind_time);

-- The processes that write, each under a name that no other has or ever had. Each of its openings has a
-- number, and a commit under an older number is refused: a call that was held up on its way can no longer be
-- made once its outcome was looked for.
CREATE TABLE replica (
    id text COLLATE "C" PRIMARY KEY,
    opening bigint NOT NULL,
    -- True if it wants no other process beside it.
    is_alone boolean NOT NULL,
    -- The number of the last migration that it knows. A later build writes what older ones cannot read only
    -- once none of those lives.
    level integer NOT NULL,
    -- Moves while the process lives.
    beat bigint NOT NULL,
    -- The time of the last beat, by the server's clock.
    seen bigint NOT NULL,
    -- True once it gives its accounts away and takes no more.
    is_leaving boolean NOT NULL,
    -- True once another process has found it silent and has taken its place: it can never commit again.
    is_gone boolean NOT NULL,
    -- The server's process behind the connection that beats, of a process that is alone.
    backend integer,
    backend_start timestamptz
) WITH (fillfactor = 50);

-- The owners of accounts; '' is for the work that belongs to no account. A row stays once it is there.
CREATE TABLE lease (
    account text COLLATE "C" PRIMARY KEY,
    -- Null once it is released.
    owner text COLLATE "C",
    -- The number of its takes.
    fence bigint NOT NULL,
    -- The number of its renewals since the last take.
    beat bigint NOT NULL,
    -- By the server's clock.
    expires bigint NOT NULL
) WITH (fillfactor = 50);

-- The answer to the last commit of each opening, for a process that has lost the answer on its way. A row
-- for each commit and not an update of one row: a long snapshot, such as a dump's, keeps all versions of
-- a row, and every update would walk through them.
CREATE TABLE commit_answer (
    replica text COLLATE "C" NOT NULL,
    opening bigint NOT NULL,
    number bigint NOT NULL,
    outcomes text COLLATE "C" NOT NULL,
    places bigint[] NOT NULL,
    PRIMARY KEY (replica, opening, number)
);
