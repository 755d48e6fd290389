CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The current row of each purchase. Times are milliseconds since 1970-01-01T00:00:00Z.
CREATE TABLE purchase (
    id BLOB NOT NULL PRIMARY KEY,
    account TEXT NOT NULL,
    provider TEXT NOT NULL,
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    labels TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    -- Of the newest revision:
    revision INTEGER NOT NULL,
    state TEXT NOT NULL,
    finality TEXT NOT NULL,
    attention TEXT,
    reference TEXT,
    change_time INTEGER NOT NULL,
    final_time INTEGER,
    -- Of the order:
    fingerprint_key TEXT NOT NULL,
    fingerprints TEXT NOT NULL,
    recovery TEXT NOT NULL,
    submit_until INTEGER,
    first_send_time INTEGER,
    resolution_note TEXT,
    -- The last status, once the transitions are gone: set makes the row a remnant.
    remnant TEXT
) STRICT;

CREATE UNIQUE INDEX purchase_by_key ON purchase (caller, key);
CREATE UNIQUE INDEX purchase_by_reference ON purchase (account, reference)
    WHERE reference IS NOT NULL AND remnant IS NULL;
CREATE INDEX purchase_by_time ON purchase (create_time, id) WHERE remnant IS NULL;
CREATE INDEX purchase_by_caller ON purchase (caller, create_time, id) WHERE remnant IS NULL;
CREATE INDEX purchase_open ON purchase (id) WHERE finality <> 'FINAL';
CREATE INDEX purchase_final ON purchase (final_time, id)
    WHERE final_time IS NOT NULL AND remnant IS NULL;
CREATE INDEX purchase_remnant ON purchase (create_time, id) WHERE remnant IS NOT NULL;

CREATE TABLE transition_log (
    position INTEGER PRIMARY KEY,
    purchase BLOB NOT NULL REFERENCES purchase (id),
    revision INTEGER NOT NULL,
    caller TEXT NOT NULL,
    from_state TEXT,
    cause TEXT NOT NULL,
    -- Without the buyer action.
    status TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX transition_by_revision ON transition_log (purchase, revision);
-- Ordered by position within a caller, as every index of a rowid table is.
CREATE INDEX transition_by_caller ON transition_log (caller);

-- Apart from the log, so that wiping rewrites no status.
CREATE TABLE buyer_action (
    purchase BLOB NOT NULL REFERENCES purchase (id),
    revision INTEGER NOT NULL,
    action TEXT NOT NULL,
    PRIMARY KEY (purchase, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE kept_text (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
