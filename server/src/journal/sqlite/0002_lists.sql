-- What lists look along, newest first, so that a filter that admits few does not walk through all.

-- Each label of each purchase that is no remnant. No foreign key: it would look for a deleted
-- purchase's labels without the caller, who is first here.
CREATE TABLE purchase_label (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    purchase BLOB NOT NULL,
    PRIMARY KEY (caller, key, value, create_time, purchase)
) STRICT, WITHOUT ROWID;

INSERT INTO purchase_label (caller, key, value, create_time, purchase)
    SELECT p.caller, label.key, label.value, p.create_time, p.id
    FROM purchase p, json_each(p.labels) label
    WHERE p.remnant IS NULL
    ORDER BY 1, 2, 3, 4, 5;

CREATE INDEX purchase_attention ON purchase (create_time, id)
    WHERE remnant IS NULL AND attention IS NOT NULL;
CREATE INDEX purchase_attention_by_caller ON purchase (caller, create_time, id)
    WHERE remnant IS NULL AND attention IS NOT NULL;
-- All but those that are FINAL in a state that is an end: the history, which grows.
CREATE INDEX purchase_live ON purchase (create_time, id)
    WHERE remnant IS NULL AND (finality <> 'FINAL' OR state NOT IN ('COMPLETED', 'FAILED', 'EXPIRED',
        'CANCELED', 'RETURNED', 'REFUNDED', 'DISPUTE_SETTLED'));
CREATE INDEX purchase_live_by_caller ON purchase (caller, create_time, id)
    WHERE remnant IS NULL AND (finality <> 'FINAL' OR state NOT IN ('COMPLETED', 'FAILED', 'EXPIRED',
        'CANCELED', 'RETURNED', 'REFUNDED', 'DISPUTE_SETTLED'));
