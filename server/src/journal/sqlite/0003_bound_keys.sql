-- Further keys of purchases. They are kept as long from their binding on as a purchase's own key from
-- its creation on, and so is the purchase's row.
CREATE TABLE bound_key (
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    purchase BLOB NOT NULL REFERENCES purchase (id),
    fingerprint_key TEXT NOT NULL,
    fingerprints TEXT NOT NULL,
    bind_time INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX bound_key_by_purchase ON bound_key (purchase, bind_time);
