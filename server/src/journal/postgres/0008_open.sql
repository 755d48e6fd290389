-- The purchases of an account that are not FINAL: each take of an account reads them.
CREATE INDEX purchase_open_of ON purchase (account, id) WHERE finality <> 'FINAL';
